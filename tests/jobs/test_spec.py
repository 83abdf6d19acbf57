"""The settings that a job's id depends on."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import TypeAdapter

from progdistill.diffusion.names import PredictionType
from progdistill.errors import LostInvariantError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.jobs.spec import (
    CheckpointOutput,
    DistillSpec,
    EvaluateSpec,
    EvaluatorOutput,
    GuideSpec,
    JobResult,
    JobSpec,
    TrainBaseSpec,
)
from progdistill.store.layout import evaluator_key
from progdistill.training.config import Precision
from progdistill.training.guidance import GuidanceRange
from tests.training.conftest import settings, tiny

SHARED: dict[str, Any] = {"dataset_fingerprint": "f" * 64, "seed": 0, "training": settings(4)}
STUDENT: dict[str, Any] = {**SHARED, "teacher": "a" * 64, "student_steps": 8, "prediction": PredictionType.V}
RANGE = GuidanceRange(lowest=1, highest=5)


def test_a_checkpoint_records_all_that_decided_its_numbers() -> None:
    shared = {**settings(4).model_dump(mode="json"), "precision": "float32"}
    assert TrainBaseSpec(**SHARED, model=tiny()).recorded_training() == {**shared, "label_dropout": 0.0}
    students = {"guidance_scale": None, "teacher_steps": 2, "frozen_precision": "float32"}
    students |= {"states_from": "data", "trajectory_steps": None}
    assert DistillSpec(**STUDENT).recorded_training() == {**shared, **students}


def test_dropped_labels_and_the_range_of_weights_make_another_job() -> None:
    base = TrainBaseSpec(**SHARED, model=tiny(label_dropout=True))
    dropped = base.model_copy(update={"label_dropout": 0.1})
    plain, told = DistillSpec(**STUDENT), DistillSpec(**STUDENT, guidance_scale=RANGE)
    guided = GuideSpec(**STUDENT, guidance_scale=RANGE)
    wider = GuideSpec(**STUDENT, guidance_scale=GuidanceRange(lowest=1, highest=6))
    assert len({job.id for job in (base, dropped, plain, told, guided, wider)}) == 6
    assert dropped.recorded_training()["label_dropout"] == 0.1
    assert told.recorded_training()["guidance_scale"] == {"lowest": 1.0, "highest": 5.0}


@pytest.mark.parametrize(
    "spec",
    [
        TrainBaseSpec(**SHARED, model=tiny(label_dropout=True), label_dropout=0.1),
        TrainBaseSpec(**SHARED, model=tiny()),
        DistillSpec(**STUDENT),
        DistillSpec(**STUDENT, guidance_scale=RANGE),
        GuideSpec(**STUDENT, guidance_scale=RANGE),
    ],
)
def test_a_job_read_back_is_the_same_job(spec: TrainBaseSpec | DistillSpec | GuideSpec) -> None:
    read: JobSpec = TypeAdapter(JobSpec).validate_json(spec.model_dump_json())
    assert read == spec and read.id == spec.id


def test_precision_makes_another_job() -> None:
    plain, rounded = DistillSpec(**STUDENT), DistillSpec(**STUDENT, precision=Precision.BFLOAT16)
    assert rounded.id != plain.id and rounded.recorded_training()["precision"] == "bfloat16"


def test_guidance_makes_another_measurement_and_the_world_size_does_not() -> None:
    facts: dict[str, Any] = {"dataset_fingerprint": "f" * 64, "seed": 0, "checkpoint": "a" * 64}
    plain, guided, shared = (
        EvaluateSpec(**facts, **changes, baseline=None, sampling_steps=4, evaluation=evaluation)
        for evaluation, changes in (
            (EvaluationSettings(), {}),
            (EvaluationSettings(guidance_scale=2.0), {}),
            (EvaluationSettings(), {"world_size": 2}),
        )
    )
    assert shared.id == plain.id != guided.id
    assert EvaluateSpec.model_validate(guided.model_dump(mode="json")) == guided


def test_a_result_has_the_output_of_its_kind_of_job_and_refers_to_it() -> None:
    now = datetime.now(UTC)
    result = JobResult(
        job_id="c" * 64, output=EvaluatorOutput(evaluator_id="d" * 64), started_at=now, finished_at=now, device="cpu"
    )
    assert JobResult.model_validate_json(result.model_dump_json()) == result
    assert list(result.references()) == [evaluator_key("d" * 64)]
    with pytest.raises(LostInvariantError, match="is of kind evaluator"):
        result.output_of(CheckpointOutput)
