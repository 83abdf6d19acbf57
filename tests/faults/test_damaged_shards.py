"""Damaged shards of a long measurement are sampled again, and the measurement continues."""

from pathlib import Path

import numpy as np
import pytest
import torch

from progdistill.evaluation.metrics import Moments
from progdistill.evaluation.shards import ShardResult, load_shard, save_shard
from progdistill.evaluation.statistics import SampleStatistics
from progdistill.logs import configure_logging
from progdistill.store.base import Store
from tests.evaluation.measurements import any_spec

INDICES = range(2)

SPEC = any_spec(shown_samples=1)


def shard() -> ShardResult:
    """What two samples gave."""
    moments = Moments(2, torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    statistics = SampleStatistics(moments, None, torch.arange(6.0).reshape(2, 3))
    return ShardResult(statistics, np.zeros((1, 4, 4, 1), np.uint8), 1.0, 1.0)


@pytest.mark.parametrize("folder", ["evaluation_shards/", "blobs/"])
@pytest.mark.parametrize("harm", ["damaged", "cut short", "gone"])
def test_a_damaged_shard_is_drawn_again(
    local_store: Store, folder: str, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging()
    save_shard(local_store, SPEC, INDICES, shard())
    (item,) = local_store.list(folder)
    path = Path(local_store.uri, item.key)
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-5] if harm == "cut short" else data[:50] + b"?" + data[51:])
    assert load_shard(local_store, SPEC, INDICES) is None
    logged = "drawing samples 0 to 2 again" in capsys.readouterr().err
    assert logged == ((folder, harm) != ("evaluation_shards/", "gone"))
    save_shard(local_store, SPEC, INDICES, shard())
    again = load_shard(local_store, SPEC, INDICES)
    assert again is not None
    assert torch.equal(again.statistics.features, shard().statistics.features)


def test_a_damaged_record_is_no_obstacle_to_keeping_the_shard(local_store: Store) -> None:
    save_shard(local_store, SPEC, INDICES, shard())
    (item,) = local_store.list("evaluation_shards/")
    local_store.write(item.key, b"{")
    save_shard(local_store, SPEC, INDICES, shard())
    assert load_shard(local_store, SPEC, INDICES) is not None
