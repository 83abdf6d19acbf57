"""What a job's identity depends on."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from progdistill.diffusion.names import PredictionType
from progdistill.evaluation.config import EvaluationSettings
from progdistill.jobs.spec import DistillSpec, EvaluateSpec, GuideSpec, JobSpec, TrainBaseSpec
from progdistill.training.config import Precision
from progdistill.training.guidance import GuidanceRange
from tests.training.conftest import settings, tiny

SHARED: dict[str, Any] = {"dataset_fingerprint": "f" * 64, "seed": 0, "training": settings(4)}
STUDENT: dict[str, Any] = {
    **SHARED,
    "teacher": "a" * 64,
    "student_steps": 8,
    "prediction": PredictionType.V,
}
RANGE = GuidanceRange(lowest=1, highest=5)


def test_a_run_without_guidance_says_nothing_of_it() -> None:
    base, student = TrainBaseSpec(**SHARED, model=tiny()), DistillSpec(**STUDENT)
    assert "label_dropout" not in base.model_dump() and "guidance_scale" not in student.model_dump()
    assert base.recorded_training() == student.recorded_training() == settings(4).model_dump(mode="json")


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


def test_precision_makes_another_job_and_float32_says_nothing_of_itself() -> None:
    plain, rounded = DistillSpec(**STUDENT), DistillSpec(**STUDENT, precision=Precision.BFLOAT16)
    assert "precision" not in plain.model_dump() and "precision" not in plain.recorded_training()
    assert rounded.id != plain.id and rounded.recorded_training()["precision"] == "bfloat16"


def test_the_id_of_a_job_stays_what_it_was_before_precision_was_a_choice() -> None:
    base = TrainBaseSpec(**SHARED, model=tiny(), numerics_version=1)
    student = DistillSpec(**STUDENT, numerics_version=1)
    assert (base.id[:12], student.id[:12]) == ("3f935fe5b0f8", "a354d59f446f")


def test_guidance_makes_another_measurement_and_none_says_nothing_of_itself() -> None:
    plain, guided = (
        EvaluateSpec(
            dataset_fingerprint="f" * 64,
            seed=0,
            checkpoint="a" * 64,
            baseline=None,
            sampling_steps=4,
            evaluation=EvaluationSettings(guidance_scale=guidance),
            numerics_version=1,
        )
        for guidance in (None, 2.0)
    )
    assert plain.id[:12] == "0abcec2df335" != guided.id[:12]
    assert EvaluateSpec.model_validate(guided.model_dump(mode="json")) == guided
