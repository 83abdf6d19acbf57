"""A training job whose store fails, or whose worker dies, at the worst moment."""

from typing import Any

import pytest
import torch

from progdistill.data.dataset import DatasetInfo
from progdistill.errors import TransientError
from progdistill.jobs import worker
from progdistill.jobs.spec import CheckpointOutput, JobRequest, JobResult, TrainBaseSpec
from progdistill.registry.checkpoint import list_ids
from progdistill.store.base import Store
from progdistill.store.documents import read_record
from progdistill.store.layout import job_result_key
from progdistill.training.config import SnapshotSettings
from progdistill.training.distributed import Rank
from progdistill.training.snapshots import Snapshot, complete_snapshots, delete_snapshots, latest_snapshot
from tests.jobs.asking import request_for
from tests.training.conftest import settings, tiny


@pytest.fixture
def request_(store: Store, digits: DatasetInfo) -> JobRequest:
    """Ask for a base model of six updates, with a snapshot after the fourth."""
    spec = TrainBaseSpec(
        dataset_fingerprint=digits.fingerprint, seed=2, model=tiny(), training=settings(6), world_size=1
    )
    return request_for(spec, store, digits, snapshots=SnapshotSettings(interval_updates=4))


def broken(*_: Any, **__: Any) -> Any:
    raise TransientError("the connection broke")


def stopped_before_its_result(request: JobRequest, store: Store, monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    """Train, but publish no result; what is left to go on from."""
    with monkeypatch.context() as patched, pytest.raises(TransientError):
        patched.setattr(worker, "publish_record", broken)
        run(request)
    found = latest_snapshot(store, request.spec.id)
    assert found is not None
    return found


def run(request: JobRequest) -> None:
    worker.run_job(request, Rank("cpu", 1), lambda: False)


def test_snapshots_stay_until_the_result_is_published(
    request_: JobRequest, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stopped_before_its_result(request_, store, monkeypatch).update == 4
    run(request_)
    result = read_record(store, job_result_key(request_.spec.id), JobResult)
    assert result is not None and list_ids(store) == [result.output_of(CheckpointOutput).checkpoint_id]
    assert not complete_snapshots(store, request_.spec.id)


def test_a_snapshot_that_could_not_be_written_costs_no_finished_training(
    request_: JobRequest, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    upload = type(store).upload

    def fails_for_snapshots(self: Store, path: Any, key_for: Any, **how: Any) -> Any:
        if key_for("0" * 64).startswith("snapshots/"):
            broken()
        return upload(self, path, key_for, **how)

    monkeypatch.setattr(type(store), "upload", fails_for_snapshots)
    run(request_)
    assert "snapshot after update 4 was not written: the connection broke" in caplog.text
    assert len(list_ids(store)) == 1


def test_a_snapshot_that_another_worker_removed_can_be_read_to_its_end(
    request_: JobRequest, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = stopped_before_its_result(request_, store, monkeypatch)
    before = found.read("model.network.conv_in.weight", 0, 1)
    delete_snapshots(store, request_.spec.id)
    assert torch.equal(found.read("model.network.conv_in.weight", 0, 1), before)
