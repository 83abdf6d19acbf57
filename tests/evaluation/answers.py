"""Questions and answers of a measurement that nobody made, for tests of what is done with them."""

from datetime import UTC, datetime

from progdistill.diffusion.names import SamplerName
from progdistill.evaluation.measurement import Measurement, MeasurementSpec


def question(**changes: object) -> MeasurementSpec:
    """Any question, or one that is asked so."""
    facts: dict[str, object] = {
        "checkpoint_id": "a" * 64,
        "sampler": SamplerName.DDIM,
        "gamma": None,
        "clip": True,
        "steps": 4,
        "samples": 2,
        "seed": 0,
        "shown_samples": 0,
        "evaluator_id": "b" * 64,
        "reference_fingerprint": "c" * 64,
        "reference_split": "train",
        "numerics_version": 1,
    }
    return MeasurementSpec.model_validate(facts | changes)


def measurement(asked: MeasurementSpec, **changes: object) -> Measurement:
    """Any answer, or one that says so."""
    facts: dict[str, object] = {
        "question": asked,
        "distance": 1.0,
        "distance_name": "fd",
        "inception_score": None,
        "sampling_seconds": 1.0,
        "evaluation_seconds": 1.0,
        "device": "cpu",
        "created_at": datetime.now(UTC),
        "shown": None,
    }
    return Measurement.model_validate(facts | changes)
