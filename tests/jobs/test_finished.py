"""A finished job is not run again unless its output is lost; then running it repairs the store."""

import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from progdistill.data.dataset import DatasetInfo
from progdistill.errors import LostInvariantError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.measurement import EvaluationRecord
from progdistill.features.manifest import load_evaluator_manifest
from progdistill.jobs import worker
from progdistill.jobs.result_cache import JobOutcome, complete
from progdistill.jobs.spec import (
    CheckpointOutput,
    EvaluateSpec,
    EvaluationOutput,
    JobRequest,
    JobResult,
    PrepareEvaluatorSpec,
    TrainBaseSpec,
)
from progdistill.registry.checkpoint import CheckpointKind, load_manifest, verify_weights
from progdistill.registry.evaluations import Measurement
from progdistill.store.base import Store
from progdistill.store.documents import declared_references, publish_record, read_record
from progdistill.store.layout import blob_key, checkpoint_key, evaluator_key, job_result_key
from progdistill.training.distributed import Rank
from tests.evaluation.measurements import any_measurement, any_spec
from tests.jobs.asking import request_for
from tests.jobs.conftest import publish
from tests.training.conftest import settings, tiny

DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


class Here:
    """Runs jobs in this process."""

    def launch(self, request: JobRequest) -> None:
        """See Launcher.launch."""
        worker.run_job(request, Rank("cpu", 1), lambda: False)


@pytest.fixture
def again(store: Store, digits: DatasetInfo) -> Callable[[], JobOutcome]:
    """Start a run that trains a base model for one update."""
    spec = TrainBaseSpec(dataset_fingerprint=digits.fingerprint, seed=2, model=tiny(), training=settings(1))
    return lambda: complete(store, Here(), request_for(spec, store, digits))


def keys_of(store: Store, outcome: JobOutcome) -> dict[str, str]:
    """The documents and the file that make up a finished training."""
    manifest = load_manifest(store, outcome.result.output_of(CheckpointOutput).checkpoint_id)
    return {
        "result": job_result_key(outcome.result.job_id),
        "manifest": checkpoint_key(manifest.id),
        "weights": blob_key(manifest.identity.weights.sha256),
    }


@pytest.mark.parametrize("harm", ["removed", "cut short"])
@pytest.mark.parametrize("what", ["result", "manifest", "weights"])
def test_starting_the_run_again_repairs_its_results(
    store: Store, again: Callable[[], JobOutcome], what: str, harm: str
) -> None:
    first = again()
    key = keys_of(store, first)[what]
    data = store.read(key)
    assert data is not None
    store.delete(key)
    if harm == "cut short":
        store.write(key, data[:-9])
    second = again()
    assert (second.reused, second.result.output) == (False, first.result.output)
    verify_weights(store, load_manifest(store, second.result.output_of(CheckpointOutput).checkpoint_id))
    assert again() == JobOutcome(second.result, reused=True)


def test_weights_with_a_flipped_bit_are_repaired_once_they_are_removed(
    store: Store, again: Callable[[], JobOutcome]
) -> None:
    first = again()
    key = keys_of(store, first)["weights"]
    data = store.read(key)
    assert data is not None
    store.write(key, data[:-1] + bytes([data[-1] ^ 1]))
    assert again().reused
    with pytest.raises(LostInvariantError, match=r"damaged.*remove it and run again"):
        verify_weights(store, load_manifest(store, first.result.output_of(CheckpointOutput).checkpoint_id))
    store.delete(key)
    assert not again().reused
    assert store.read(key) == data


@pytest.mark.slow
def test_whatever_an_evaluation_has_lost_is_recreated(store: Store, digits: DatasetInfo) -> None:
    asked = EvaluationSettings(samples=20, batch_size=10, shown_samples=4, neighbors_at_steps=(2,))
    facts = {"dataset_fingerprint": digits.fingerprint, "seed": 0, "evaluation": asked}
    student = publish(store, tiny(), CheckpointKind.STUDENT, sampling_steps=2).id
    specs = (PrepareEvaluatorSpec(**facts), EvaluateSpec(**facts, checkpoint=student, baseline=None, sampling_steps=2))

    def evaluated() -> EvaluationRecord:
        for spec in specs:
            outcome = complete(store, Here(), request_for(spec, store, digits))
        return outcome.result.output_of(EvaluationOutput).record

    record = evaluated()
    evaluator = load_evaluator_manifest(store, record.measurements[0].spec.evaluator_id)
    weights = blob_key(evaluator.identity.weights.sha256)
    strip, neighbors = (blob_key(file.sha256) for file in record.files)
    made = {item.key: store.read(item.key) for item in store.list("blobs/")}
    of_student = blob_key(load_manifest(store, student).identity.weights.sha256)
    (statistics,) = made.keys() - {strip, neighbors, weights, of_student}
    for harm, lost in (
        ("removed", (strip,)),
        ("cut short", (neighbors,)),
        ("cut short", (weights,)),
        ("removed", (evaluator_key(evaluator.id),)),
        ("removed", (statistics, strip)),  # what real images look like is missed by those only who measure
    ):
        for key in lost:
            data = store.read(key)
            assert data is not None
            store.delete(key)
            if harm == "cut short":
                store.write(key, data[:-9])
        assert evaluated().files == record.files
        assert {item.key: store.read(item.key) for item in store.list("blobs/")} == made
        assert load_evaluator_manifest(store, evaluator.id).identity == evaluator.identity
    assert undeclared_references(store) == {}


def undeclared_references(store: Store) -> dict[str, set[str]]:
    """What documents mention by digest, without declaring it: garbage collection would not keep it."""
    keys = [item.key for item in store.list("")]
    named = {
        digest: key
        for key in keys
        for digest in DIGEST.findall(key)
        if key in (blob_key(digest), checkpoint_key(digest), evaluator_key(digest))
    }
    undeclared: dict[str, set[str]] = {}
    for key in keys:
        if key.endswith(".json"):
            data = store.read(key) or b""
            mentioned = {named[digest] for digest in DIGEST.findall(data.decode()) if digest in named}
            if missing := mentioned - {key} - set(declared_references(data) or ()):
                undeclared[key] = missing
    return undeclared


def test_a_lost_measurement_is_published_again_from_its_jobs_result(store: Store, digits: DatasetInfo) -> None:
    measured = any_measurement(any_spec())
    record = EvaluationRecord(checkpoint_id="a" * 64, kind=CheckpointKind.BASE, sampling_steps=4, distilled=measured)
    spec = EvaluateSpec(
        dataset_fingerprint=digits.fingerprint,
        seed=0,
        evaluation=EvaluationSettings(),
        checkpoint="a" * 64,
        baseline=None,
        sampling_steps=4,
    )
    now = datetime.now(UTC)
    output = EvaluationOutput(record=record)
    result = JobResult(job_id=spec.id, output=output, started_at=now, finished_at=now, device="cpu")
    publish_record(store, job_result_key(spec.id), result)
    assert complete(store, Here(), request_for(spec, store, digits)) == JobOutcome(result, reused=True)
    assert read_record(store, measured.spec.key, Measurement) == measured
