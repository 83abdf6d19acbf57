"""The training loader: random access, ranks, epochs and flips."""

import numpy as np
import pytest
import torch

from progdistill.data.dataset import DatasetInfo
from progdistill.data.loader import TrainingLoader, flipped
from progdistill.data.reading import read_split
from progdistill.errors import UsageError


def loader(
    info: DatasetInfo, batch_size: int = 128, seed: int = 0, rank: int = 0, world_size: int = 1
) -> TrainingLoader:
    return TrainingLoader(info, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size, flip=False)


def test_a_batch_is_the_same_in_any_order_and_in_another_loader(digits: DatasetInfo) -> None:
    forward, backward = loader(digits), loader(digits)
    first = [forward.batch(update) for update in range(30)]
    for update in reversed(range(30)):
        again = backward.batch(update)
        assert torch.equal(again.x, first[update].x)
        assert torch.equal(again.conditioning["label"], first[update].conditioning["label"])
    assert not torch.equal(first[0].x, first[1].x)
    assert not torch.equal(first[0].x, loader(digits, seed=1).batch(0).x)


def test_images_are_floats_from_minus_one_to_one_in_channels_first_order(digits: DatasetInfo) -> None:
    images, conditioning = loader(digits).batch(0)
    labels = conditioning["label"]
    assert (images.shape, images.dtype) == ((128, 1, 8, 8), torch.float32)
    assert images.is_contiguous()
    assert (labels.shape, labels.dtype) == ((128,), torch.int64)
    assert (images.min().item(), images.max().item()) == (-1, 1)


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_the_ranks_parts_together_are_the_one_rank_batch_in_order(digits: DatasetInfo, world_size: int) -> None:
    parts = [loader(digits, rank=rank, world_size=world_size) for rank in range(world_size)]
    for update in (0, 11, 1000):  # Update 11 of 128 crosses an epoch's end.
        whole = loader(digits).batch(update)
        split = [part.batch(update) for part in parts]
        assert torch.equal(torch.cat([batch.x for batch in split]), whole.x)
        assert torch.equal(torch.cat([batch.conditioning["label"] for batch in split]), whole.conditioning["label"])


def test_each_epoch_sees_every_image_once_in_an_order_of_its_own(digits: DatasetInfo) -> None:
    images, labels = read_split(digits, "train")
    stored = sorted(zip(labels.tolist(), (image.tobytes() for image in images), strict=True))
    one = loader(digits, batch_size=1437)
    orders = []
    for epoch in range(3):
        batch = one.batch(epoch)
        pixels = batch.x.add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        seen = list(zip(batch.conditioning["label"].tolist(), (image.tobytes() for image in pixels), strict=True))
        assert sorted(seen) == stored
        orders.append(seen)
    assert orders[0] != orders[1] != orders[2]


def test_a_batch_larger_than_the_split_goes_on_into_the_next_epochs(digits: DatasetInfo) -> None:
    small, large = loader(digits, batch_size=479), loader(digits, batch_size=3 * 1437)
    pieces = torch.cat([small.batch(update).x for update in range(9)])
    assert torch.equal(large.batch(0).x, pieces)


def test_half_the_samples_are_mirrored_and_only_those(digits: DatasetInfo) -> None:
    safe = digits.model_copy(update={"horizontal_flip_safe": True})
    plain = TrainingLoader(safe, batch_size=256, seed=5, flip=False).batch(3)
    mixed = TrainingLoader(safe, batch_size=256, seed=5, flip=True).batch(3)
    halves = [
        TrainingLoader(safe, batch_size=256, seed=5, flip=True, rank=rank, world_size=2).batch(3) for rank in (0, 1)
    ]
    same = (mixed.x == plain.x).flatten(1).all(dim=1)
    mirrored = (mixed.x == plain.x.flip(3)).flatten(1).all(dim=1)
    assert bool((same | mirrored).all())
    assert 90 < int(mirrored.sum()) < 166
    assert torch.equal(torch.cat([half.x for half in halves]), mixed.x)


def test_flips_are_fair_and_independent_coins() -> None:
    coins = flipped(12345, range(100_000)).astype(np.float64) - 0.5
    # Five standard deviations of the mean, and of the correlation of neighbors, at 100,000 fair coins.
    assert abs(coins.mean()) < 0.008
    assert abs((coins[1:] * coins[:-1]).mean()) * 4 < 0.016
    assert np.array_equal(flipped(7, range(50, 60)), flipped(7, range(100))[50:60])


def test_settings_that_do_not_fit_are_usage_errors(digits: DatasetInfo) -> None:
    with pytest.raises(UsageError, match="batch size 100 is not a positive multiple of the world size 3"):
        loader(digits, batch_size=100, world_size=3)
    with pytest.raises(UsageError, match="rank 2 is out of range for world size 2"):
        loader(digits, rank=2, world_size=2)
    with pytest.raises(UsageError, match="mirrored"):
        TrainingLoader(digits, batch_size=8, seed=0, flip=True)
    with pytest.raises(UsageError, match="validation"):
        TrainingLoader(digits, batch_size=8, seed=0, flip=False, split="validation")
