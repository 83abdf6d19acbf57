"""A job on this machine, even if its output cannot be written."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from progdistill.data.dataset import DatasetInfo
from progdistill.errors import ProgdistillError
from progdistill.jobs.forkserver import fork_server
from progdistill.jobs.local import RANK_VARIABLES, LocalLauncher
from progdistill.jobs.result_cache import complete
from progdistill.jobs.spec import TrainBaseSpec
from progdistill.store.base import Store
from tests.jobs.asking import request_for
from tests.training.conftest import settings, tiny


def test_a_full_disk_costs_the_log_file_and_not_the_output_of_a_job(
    store: Store, digits: DatasetInfo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A training that fails has something to say."""
    training = settings(8, learning_rate=1e30)
    spec = TrainBaseSpec(dataset_fingerprint=digits.fingerprint, seed=1, model=tiny(), training=training)
    log = tmp_path / f"train_base-{spec.id[:12]}.log"
    log.symlink_to("/dev/full")
    caplog.set_level("INFO")
    with pytest.raises(ProgdistillError, match="not finite"):
        complete(store, LocalLauncher(tmp_path), request_for(spec, store, digits))
    said = caplog.text
    assert said.count(f"cannot write log file {log} (No space left on device)") == 1
    assert "not finite" in said


@pytest.mark.parametrize("beside", [nullcontext, fork_server])
def test_a_job_of_one_rank_waits_for_no_ranks_of_somebody_else(
    beside: Callable[[], AbstractContextManager[None]],
    store: Store,
    digits: DatasetInfo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The driver was itself started by torchrun, or in an allocation that sets its names."""
    foreign = dict.fromkeys(RANK_VARIABLES, "1") | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for name, value in foreign.items():
        monkeypatch.setenv(name, value)
    spec = TrainBaseSpec(dataset_fingerprint=digits.fingerprint, seed=1, model=tiny(), training=settings(1))
    with beside():
        assert complete(store, LocalLauncher(tmp_path), request_for(spec, store, digits)).result.output
