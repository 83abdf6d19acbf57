"""Datasets with columns beside or instead of the image: what is stored, and what the loader makes of it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from progdistill.data.columns import Column, caption_bytes, captions_of
from progdistill.data.dataset import DatasetInfo, manifest_of
from progdistill.data.loader import TrainingLoader
from progdistill.data.manifest import fingerprint_of
from progdistill.data.reading import read_columns, read_split, read_unconditional, verify_dataset
from progdistill.errors import LostInvariantError, UsageError
from tests.data.datasets import encoded_dataset, streaming

COLUMNS = (
    Column(name="latent_mean", shape=(4, 2, 2)),
    Column(name="latent_std", shape=(4, 2, 2)),
    Column(name="prompt_embeds", shape=(3, 5), dtype="float16"),
    Column(name="prompt_attention_mask", shape=(3,), dtype="bool"),
    Column(name="time_ids", shape=(6,), dtype="int64"),
)
ROWS = 203


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    """Latents whose mean is their number, with text, in shards of 20."""
    return encoded_dataset(tmp_path_factory.mktemp("latents"), COLUMNS, ROWS, rows_per_shard=20)


def loader(
    info: DatasetInfo, batch_size: int = 32, rank: int = 0, world_size: int = 1, **more: object
) -> TrainingLoader:
    return TrainingLoader(info, batch_size=batch_size, seed=1, rank=rank, world_size=world_size, flip=False, **more)


def test_every_column_comes_back_as_it_was_written(latents: DatasetInfo) -> None:
    found = read_columns(latents, "train", latents.stored_columns)
    number = np.arange(ROWS)
    assert np.array_equal(found["label"], number % 10)
    assert np.array_equal(found["latent_mean"][:, 3, 1, 0], number)
    assert found["prompt_embeds"].dtype == np.float16 and found["prompt_embeds"].shape == (ROWS, 3, 5)
    assert np.array_equal(found["prompt_attention_mask"][:, 0], number % 2 == 1)
    assert np.array_equal(found["time_ids"][:, 5], number)
    verify_dataset(latents)


def test_pyarrow_reads_the_columns_as_tensors(latents: DatasetInfo) -> None:
    import pyarrow as pa

    with pa.ipc.open_file(f"{latents.location}/train-00000.arrow") as file:
        batch = file.read_all()
    tensors = batch.column("latent_mean").combine_chunks().to_numpy_ndarray()
    assert tensors.shape == (20, 4, 2, 2) and tensors[7, 0, 0, 0] == 7


@pytest.mark.parametrize("from_disk", [False, True])
def test_samples_keep_their_own_columns(latents: DatasetInfo, monkeypatch: pytest.MonkeyPatch, from_disk: bool) -> None:
    if from_disk:
        streaming(monkeypatch)
    one = loader(latents)
    for update in (0, 5, 6, 7):  # update 6 crosses an epoch's end
        x, conditioning = one.batch(update)
        number = conditioning["time_ids"][:, 0]
        assert x is not None and x.dtype == torch.float32
        assert torch.equal(conditioning["label"], number % 10)
        assert torch.equal(conditioning["prompt_attention_mask"][:, 0], number % 2 == 1)
        assert torch.equal(conditioning["prompt_embeds"][:, 1, 1], number.half())
        assert (x.mean(dim=(1, 2, 3)) - number).abs().max() < 5 * 0.1 / 4
    one.close()


def test_ranks_and_disk_give_the_one_rank_batch_from_memory(
    latents: DatasetInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [loader(latents).batch(update) for update in range(9)]
    streaming(monkeypatch)
    for update in (0, 3, 6, 8):
        parts = [loader(latents, rank=rank, world_size=2).batch(update) for rank in (0, 1)]
        assert torch.equal(torch.cat([part.x for part in parts]), whole[update].x)
        for name, column in whole[update].conditioning.items():
            assert torch.equal(torch.cat([part.conditioning[name] for part in parts]), column)


def test_a_latent_is_drawn_anew_each_time_with_its_mean_and_deviation(latents: DatasetInfo) -> None:
    one = loader(latents, batch_size=ROWS)
    drawn = []
    for epoch in range(12):
        x, conditioning = one.batch(epoch)
        drawn.append(x[conditioning["time_ids"][:, 0].argsort()])
    errors = torch.stack(drawn) - torch.arange(float(ROWS))[None, :, None, None, None]
    assert errors.std().item() == pytest.approx(0.1, rel=0.02)
    assert (errors[1:] * errors[:-1]).mean().abs() < 5 * 0.01 / errors[1:].numel() ** 0.5  # independent draws
    assert not torch.equal(
        loader(latents).batch(0).x, TrainingLoader(latents, batch_size=32, seed=2, flip=False).batch(0).x
    )


def test_only_the_columns_that_a_network_takes_are_read(latents: DatasetInfo) -> None:
    assert set(loader(latents, conditions=["time_ids"]).batch(0).conditioning) == {"label", "time_ids"}
    with pytest.raises(UsageError, match="has no column pooled_prompt_embeds: it has label, latent_mean"):
        loader(latents, conditions=["pooled_prompt_embeds"])


def test_a_dataset_of_prompts_alone_has_no_x(tmp_path: Path) -> None:
    info = encoded_dataset(tmp_path, COLUMNS[2:], 30, rows_per_shard=20)
    assert info.sample_shape is None
    x, conditioning = loader(info).batch(0)
    assert x is None and len(conditioning["prompt_embeds"]) == 32
    with pytest.raises(UsageError, match="has no images"):
        read_split(info, "train")


def test_the_empty_prompt_is_stored_once(latents: DatasetInfo) -> None:
    empty = read_unconditional(latents)
    assert latents.has_unconditional and empty is not None
    assert set(empty) == {"prompt_embeds", "prompt_attention_mask", "time_ids"}
    assert empty["prompt_embeds"].shape == (1, 3, 5) and (empty["time_ids"] == -1).all()


def test_a_damaged_column_is_found(tmp_path: Path) -> None:
    info = encoded_dataset(tmp_path, COLUMNS, 50, rows_per_shard=20)
    shard = Path(info.location) / "train-00001.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(LostInvariantError, match=r"train-00001\.arrow is damaged"):
        verify_dataset(info)
    with pytest.raises(LostInvariantError, match=r"train-00001\.arrow is damaged"):
        loader(info).batch(0)


def test_the_fingerprint_covers_columns_encoder_and_empty_prompt(latents: DatasetInfo) -> None:
    manifest = manifest_of(latents)
    assert fingerprint_of(manifest, manifest.splits, manifest.encoded_by, manifest.unconditional) == latents.fingerprint
    others = [
        fingerprint_of(manifest, manifest.splits, "0" * 64, manifest.unconditional),
        fingerprint_of(manifest, manifest.splits, manifest.encoded_by, None),
        fingerprint_of(
            manifest.model_copy(update={"columns": COLUMNS[:4]}),
            manifest.splits,
            manifest.encoded_by,
            manifest.unconditional,
        ),
    ]
    assert len({latents.fingerprint, *others}) == 4


@pytest.mark.parametrize("caption", ["", "a cat", "naïve 😀", "日本語のキャプション"])
def test_captions_survive_as_bytes(caption: str) -> None:
    assert captions_of(caption_bytes([caption, "x"], 40)) == [caption, "x"]


def test_a_caption_is_cut_after_a_whole_character() -> None:
    assert captions_of(caption_bytes(["ab😀"], 5)) == ["ab"]
