"""The training loader: random access, ranks, epochs and flips."""

from pathlib import Path

import numpy as np
import pytest
import torch

from progdistill.data.dataset import DatasetInfo, find_dataset
from progdistill.data.digits import DESCRIPTION, embedded_digits
from progdistill.data.loader import TrainingLoader, epoch_order, flips
from progdistill.data.reading import read_split
from progdistill.data.stored import publish
from progdistill.errors import UsageError


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    return find_dataset("digits", tmp_path_factory.mktemp("data"))


def loader(
    info: DatasetInfo, batch_size: int = 128, seed: int = 0, rank: int = 0, ranks: int = 1
) -> TrainingLoader:
    return TrainingLoader(info, batch_size=batch_size, seed=seed, rank=rank, ranks=ranks, flip=False)


def test_a_batch_is_the_same_in_any_order_and_in_another_loader(digits: DatasetInfo) -> None:
    forward, backward = loader(digits), loader(digits)
    first = [forward.batch(update) for update in range(30)]
    for update in reversed(range(30)):
        again = backward.batch(update)
        assert torch.equal(again.images, first[update].images)
        assert torch.equal(again.labels, first[update].labels)
    assert not torch.equal(first[0].images, first[1].images)
    assert not torch.equal(first[0].images, loader(digits, seed=1).batch(0).images)


def test_images_are_floats_from_minus_one_to_one_in_channels_first_order(digits: DatasetInfo) -> None:
    images, labels = loader(digits).batch(0)
    assert (images.shape, images.dtype) == ((128, 1, 8, 8), torch.float32)
    assert (labels.shape, labels.dtype) == ((128,), torch.int64)
    assert (images.min().item(), images.max().item()) == (-1, 1)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_the_ranks_parts_together_are_the_one_rank_batch_in_order(digits: DatasetInfo, ranks: int) -> None:
    parts = [loader(digits, rank=rank, ranks=ranks) for rank in range(ranks)]
    for update in (0, 11, 1000):  # update 11 of 128 crosses an epoch's end
        whole = loader(digits).batch(update)
        split = [part.batch(update) for part in parts]
        assert torch.equal(torch.cat([batch.images for batch in split]), whole.images)
        assert torch.equal(torch.cat([batch.labels for batch in split]), whole.labels)


def test_each_epoch_sees_every_image_once_in_an_order_of_its_own(digits: DatasetInfo) -> None:
    pixels, labels = read_split(digits, "train")
    one = loader(digits, batch_size=479)  # 1437 = 3 · 479
    for epoch in range(2):
        batches = [one.batch(3 * epoch + part) for part in range(3)]
        order = epoch_order(0, epoch, 1437)
        seen = torch.cat([batch.images for batch in batches]).add(1).mul(127.5).round().to(torch.uint8)
        np.testing.assert_array_equal(np.sort(order), np.arange(1437))
        np.testing.assert_array_equal(seen.permute(0, 2, 3, 1).numpy(), pixels[order])
        np.testing.assert_array_equal(torch.cat([batch.labels for batch in batches]).numpy(), labels[order])
    assert not np.array_equal(epoch_order(0, 0, 1437), epoch_order(0, 1, 1437))


def test_a_batch_larger_than_the_split_goes_on_into_the_next_epochs(digits: DatasetInfo) -> None:
    labels = read_split(digits, "train")[1]
    large = loader(digits, batch_size=3000).batch(0).labels.numpy()
    orders = np.concatenate([epoch_order(0, epoch, 1437) for epoch in range(3)])
    np.testing.assert_array_equal(large, labels[orders[:3000]])


def test_half_the_samples_are_mirrored_and_only_those(tmp_path: Path) -> None:
    pixels, labels = embedded_digits()
    safe = DESCRIPTION.model_copy(update={"name": "mirrored", "horizontal_flip_safe": True})
    publish(tmp_path / "safe", safe, {"train": (pixels, labels)})
    info = find_dataset(str(tmp_path / "safe"), tmp_path)
    plain = TrainingLoader(info, batch_size=256, seed=5, flip=False).batch(3)
    flipped = TrainingLoader(info, batch_size=256, seed=5, flip=True).batch(3)
    mirrored = flips(5, np.arange(768, 1024))
    assert torch.equal(flipped.images[~mirrored], plain.images[~mirrored])
    assert torch.equal(flipped.images[mirrored], plain.images[mirrored].flip(-1))
    # 100 000 fair coins: five standard deviations are 0.008.
    assert abs(flips(5, np.arange(100_000)).mean() - 0.5) < 0.008
    assert not np.array_equal(flips(5, np.arange(256)), flips(6, np.arange(256)))


def test_settings_that_do_not_fit_are_usage_errors(digits: DatasetInfo) -> None:
    with pytest.raises(UsageError, match="batch size 100 is not a positive multiple of the 3 ranks"):
        loader(digits, batch_size=100, ranks=3)
    with pytest.raises(UsageError, match="rank 2 of 2"):
        loader(digits, rank=2, ranks=2)
    with pytest.raises(UsageError, match="mirrored"):
        TrainingLoader(digits, batch_size=8, seed=0, flip=True)


def test_a_closed_loader_gives_no_batch(digits: DatasetInfo) -> None:
    closed = loader(digits)
    closed.close()
    with pytest.raises(RuntimeError, match="closed"):
        closed.batch(0)
