"""Made-up measurements, for tests of code that uses measurements."""

from datetime import UTC, datetime

from progdistill.diffusion.names import SamplerName
from progdistill.registry.evaluations import Measurement, MeasurementSpec


def any_spec(**changes: object) -> MeasurementSpec:
    """Any spec, with these changes."""
    facts: dict[str, object] = {
        "checkpoint_id": "a" * 64,
        "sampler": SamplerName.DDIM,
        "sampling_steps": 4,
        "gamma": None,
        "clip": True,
        "samples": 2,
        "seed": 0,
        "shown_samples": 0,
        "evaluator_id": "b" * 64,
        "reference_fingerprint": "c" * 64,
        "reference_split": "train",
        "numerics_version": 1,
    }
    return MeasurementSpec.model_validate(facts | changes)


def any_measurement(spec: MeasurementSpec, **changes: object) -> Measurement:
    """Any measurement of a spec, with these changes."""
    facts: dict[str, object] = {
        "spec": spec,
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
