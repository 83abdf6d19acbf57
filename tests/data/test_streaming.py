"""The loader on shards on disk: the same batches as from memory, at any world size, in limited memory."""

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from progdistill.data import shards
from progdistill.data.dataset import DatasetInfo
from progdistill.data.loader import TrainingLoader
from progdistill.errors import LostInvariantError
from tests.data.datasets import CLASSES, loaded, numbered_dataset, numbers, streaming

IMAGES = 5003
UPDATES = range(0, 100)
"""More than an epoch of 64 images an update."""


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    """101 shards: four windows, the last shard with three images."""
    return numbered_dataset(tmp_path_factory.mktemp("numbered"), IMAGES)


@pytest.fixture(scope="module")
def expected(numbered: DatasetInfo) -> list[list[int]]:
    """What the updates hold, read from memory by one rank."""
    return loaded(numbered, UPDATES)


def test_batches_from_disk_are_those_from_memory(
    numbered: DatasetInfo, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    streaming(monkeypatch)
    assert loaded(numbered, UPDATES) == expected


@pytest.mark.parametrize("from_disk", [False, True])
def test_going_on_with_two_ranks_and_then_one_keeps_the_global_order(
    numbered: DatasetInfo, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch, from_disk: bool
) -> None:
    if from_disk:
        streaming(monkeypatch)
    stages = [
        loaded(numbered, range(0, 35), world_size=1),
        loaded(numbered, range(35, 80), world_size=2),
        loaded(numbered, range(80, 100), world_size=1),
    ]
    assert [update for stage in stages for update in stage] == expected


def test_an_epoch_over_all_windows_has_every_image_once(expected: list[list[int]]) -> None:
    seen = [number if number >= 0 else -1 - number for update in expected for number in update]
    assert sorted(seen[:IMAGES]) == list(range(IMAGES))
    assert len(set(seen[IMAGES:])) == len(seen) - IMAGES


def test_batches_of_a_source_sorted_by_class_have_their_fair_share_of_each(expected: list[list[int]]) -> None:
    """χ² of the class counts of each batch, which has 9 degrees of freedom where batches are fair samples."""
    statistics = []
    for update in expected[: IMAGES // 64]:
        classes = Counter((n if n >= 0 else -1 - n) * CLASSES // IMAGES for n in update)
        counts = np.array([classes[label] for label in range(CLASSES)])
        statistics.append(((counts - 6.4) ** 2 / 6.4).sum())
    # Standard deviation of one: √18; of the mean of 78: 0.48. Sorted batches would have 576.
    assert np.mean(statistics) == pytest.approx(9, abs=5 * 0.48)


def open_shards(info: DatasetInfo) -> int:
    """How many files of a dataset this process holds open."""
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # Closed since it was listed.
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sum(link.startswith(f"{info.location}/") for link in links)


def test_descriptors_stay_within_their_bound_over_epochs(
    numbered: DatasetInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    streaming(monkeypatch)
    monkeypatch.setattr(shards, "OPEN_SHARDS", 40)
    one = TrainingLoader(numbered, batch_size=64, seed=3, flip=True)
    most = 0
    for update in range(160):
        one.batch(update)
        most = max(most, open_shards(numbered))
    one.close()
    # One more is opened before the oldest is closed.
    assert 30 < most <= 40 + 1
    assert open_shards(numbered) == 0


@pytest.mark.parametrize("from_disk", [False, True])
def test_a_damaged_shard_stops_training_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_disk: bool
) -> None:
    if from_disk:
        streaming(monkeypatch)
    info = numbered_dataset(tmp_path, 3000)
    shard = tmp_path / "numbered" / "train-00017.arrow"
    shard.write_bytes(shard.read_bytes().replace(b"\0", b"\1"))
    with pytest.raises(LostInvariantError, match=r"train-00017\.arrow is damaged: .* digest .*expected"):
        loaded(info, range(0, 50))


def test_a_dataset_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    info = numbered_dataset(tmp_path, 300)
    os.rename(tmp_path / "numbered", tmp_path / "away")
    other = numbered_dataset(tmp_path, 400)
    with pytest.raises(LostInvariantError, match=f"{other.fingerprint}, expected {info.fingerprint}"):
        loaded(info, range(1))


def test_updates_can_be_asked_for_out_of_order(
    numbered: DatasetInfo, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    streaming(monkeypatch)
    one = TrainingLoader(numbered, batch_size=64, seed=3, flip=True)
    for update in (0, 1, 90, 2, 3, 3, 99):
        assert numbers(one.batch(update)) == expected[update]
    one.close()
