"""Two processes measure the same as one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from progdistill.data.dataset import DatasetInfo
from progdistill.evaluation.config import EvaluationSettings
from progdistill.jobs.local import LocalLauncher
from progdistill.jobs.result_cache import complete
from progdistill.jobs.spec import EvaluateSpec, EvaluationOutput
from progdistill.registry.checkpoint import CheckpointKind
from progdistill.store.base import Store
from progdistill.store.layout import evaluations_prefix, job_result_key
from tests.jobs.asking import request_for
from tests.jobs.conftest import publish
from tests.training.conftest import tiny

FIGURES = {"spec", "distance", "kernel_distance", "precision", "recall", "inception_score", "shown"}


@pytest.fixture
def spec(store: Store, digits: DatasetInfo) -> EvaluateSpec:
    """A base model with its γ tuned, in shards of 5,000 and 200 samples."""
    base = publish(store, tiny(), CheckpointKind.BASE).id
    return EvaluateSpec(
        dataset_fingerprint=digits.fingerprint,
        seed=0,
        checkpoint=base,
        baseline=base,
        sampling_steps=2,
        evaluation=EvaluationSettings(samples=5200, tuned_gammas=2, tuning_samples=500, batch_size=500),
    )


@pytest.mark.slow
@pytest.mark.parametrize("told_by", ["a signal", "the end of its driver"])
def test_a_measurement_that_is_told_to_stop_goes_on_behind_its_finished_shards(
    told_by: str, spec: EvaluateSpec, store: Store, digits: DatasetInfo, tmp_path: Path
) -> None:
    """Ten batches are the first shard; in the next the worker is asked to leave."""
    driver = subprocess.Popen(["sleep", "600"])
    request = request_for(spec, store, digits, driver_process_id=driver.pid)
    (tmp_path / "request.json").write_text(request.model_dump_json())
    command = [sys.executable, "-m", "progdistill.jobs.worker", str(tmp_path / "request.json")]
    worker = subprocess.Popen(
        command,
        env={**os.environ, "PROGDISTILL_FAULT": f"hold:evaluation.batch@11:{tmp_path}/go"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert worker.stdout is not None
    assert any("reached evaluation.batch" in line for line in worker.stdout)
    if told_by == "a signal":
        worker.send_signal(signal.SIGTERM)
    else:
        driver.kill()
        driver.wait()
    said, _ = worker.communicate(timeout=250)
    driver.kill()
    driver.wait()
    assert worker.returncode == 130
    assert "evaluation at 2 steps: interrupted" in said and "Traceback" not in said
    (kept,) = store.list("evaluation_shards/")
    assert kept.key.endswith("/0-5000.json")
    complete(store, LocalLauncher(tmp_path), request_for(spec, store, digits))
    assert not list(store.list("evaluation_shards/"))


@pytest.mark.slow
def test_a_record_of_two_ranks_is_that_of_one(
    spec: EvaluateSpec, store: Store, digits: DatasetInfo, tmp_path: Path
) -> None:
    records = []
    for world_size in (2, 1):
        request = request_for(spec.model_copy(update={"world_size": world_size}), store, digits)
        result = complete(store, LocalLauncher(tmp_path / str(world_size)), request).result
        records.append(result.output_of(EvaluationOutput).record)
        answers = [item.key for item in store.list(evaluations_prefix(spec.checkpoint))]
        assert len(answers) == 2 + 2  # DDIM, ancestral, and a trial of each γ
        assert not list(store.list("evaluation_shards/"))
        for key in (*answers, job_result_key(spec.id)):
            store.delete(key)
    two, one = records
    assert [m.model_dump(include=FIGURES) for m in two.measurements] == [
        m.model_dump(include=FIGURES) for m in one.measurements
    ]


def test_the_number_of_ranks_is_no_part_of_a_measurement(spec: EvaluateSpec) -> None:
    assert spec.model_copy(update={"world_size": 8}).id == spec.id
    assert spec.model_copy(update={"sampling_steps": 4}).id != spec.id
