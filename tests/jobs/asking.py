"""Job requests for tests: on real digits, with one thread per rank."""

from typing import Any

from progdistill.data.dataset import DatasetInfo
from progdistill.jobs.spec import JobRequest, JobSpec, TrainBaseSpec
from progdistill.jobs.worker import run_job
from progdistill.store.base import Store
from progdistill.training.config import ComputeSettings, SnapshotSettings
from progdistill.training.distributed import Rank
from tests.training.conftest import settings, tiny


class InThisProcess:
    """A launcher without workers, for short jobs: the libraries that they need are imported here already."""

    def launch(self, request: JobRequest) -> None:
        """See Launcher."""
        run_job(request, Rank("cpu", 1), lambda: False)


def request_for(spec: JobSpec, store: Store, digits: DatasetInfo, **changes: Any) -> JobRequest:
    """Ask for what `spec` describes."""
    facts: dict[str, Any] = {
        "store": store.uri,
        "snapshots": SnapshotSettings(),
        "compute": ComputeSettings(device="cpu", threads_per_rank=1),
        "created_by": "DistillFlow/7",
        "configuration": {},
    }
    return JobRequest(spec=spec, dataset=digits, **{**facts, **changes})


def base_of_two_ranks(store: Store, digits: DatasetInfo, seed: int, **training: Any) -> JobRequest:
    """Ask for a base model of eight updates on two ranks, with a snapshot each second update."""
    spec = TrainBaseSpec(
        dataset_fingerprint=digits.fingerprint, seed=seed, world_size=2, model=tiny(), training=settings(8, **training)
    )
    return request_for(spec, store, digits, snapshots=SnapshotSettings(interval_updates=2))
