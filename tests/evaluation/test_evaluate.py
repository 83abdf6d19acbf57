"""A checkpoint and its baselines: what is measured, recorded, and not repeated."""

import pytest

from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import SamplerName
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.evaluate import evaluate_checkpoint
from progdistill.evaluation.measurement import EvaluationRecord
from progdistill.evaluation.plan import baseline_of, plan_measurements
from progdistill.images import decode_contact_sheet
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.registry.evaluations import Measurement
from progdistill.report.input import stage_entry
from progdistill.store.base import Store
from progdistill.store.documents import list_records

EVALUATOR = "e" * 64
SETTINGS = EvaluationSettings(samples=40, batch_size=20, shown_samples=12, max_sampling_steps=4)


@pytest.fixture(scope="module")
def record(
    evaluated_store: Store, student: CheckpointManifest, base: CheckpointManifest, digits: DatasetInfo
) -> EvaluationRecord:
    return evaluate_checkpoint(evaluated_store, student, base, 2, SETTINGS, digits)


def test_a_student_stands_beside_both_baselines_at_its_own_steps(
    record: EvaluationRecord, student: CheckpointManifest, base: CheckpointManifest
) -> None:
    measured = [
        (m.spec.checkpoint_id, m.spec.sampler, m.spec.sampling_steps, m.spec.samples, m.spec.seed)
        for m in record.measurements
    ]
    assert measured == [
        (student.id, SamplerName.DDIM, 2, 40, 0),
        (base.id, SamplerName.DDIM, 2, 40, 0),
        (base.id, SamplerName.ANCESTRAL, 2, 40, 0),
    ]
    assert all(m.distance > 0 and m.inception_score is not None for m in record.measurements)


def test_the_distance_goes_by_its_own_name(record: EvaluationRecord) -> None:
    assert {m.distance_name for m in record.measurements} == {"frechet_digits_classifier"}


def test_a_repeated_evaluation_reuses_the_measurements(
    record: EvaluationRecord,
    evaluated_store: Store,
    student: CheckpointManifest,
    base: CheckpointManifest,
    digits: DatasetInfo,
) -> None:
    other_batches = SETTINGS.model_copy(update={"batch_size": 7})
    assert evaluate_checkpoint(evaluated_store, student, base, 2, other_batches, digits) == record


def test_more_samples_are_another_measurement(
    record: EvaluationRecord, evaluated_store: Store, student: CheckpointManifest, digits: DatasetInfo
) -> None:
    more = SETTINGS.model_copy(update={"samples": 41})
    again = evaluate_checkpoint(evaluated_store, student, None, 2, more, digits)
    assert again.distilled is not None and record.distilled is not None
    assert again.distilled.spec.id != record.distilled.spec.id
    assert again.baseline_ddim is None


def test_the_base_model_is_its_own_ddim_baseline(
    evaluated_store: Store, base: CheckpointManifest, digits: DatasetInfo
) -> None:
    record = evaluate_checkpoint(evaluated_store, base, base, 4, SETTINGS, digits)
    assert record.distilled == record.baseline_ddim
    assert len(record.measurements) == 2


def test_too_many_steps_are_left_out_with_the_reason(
    evaluated_store: Store, base: CheckpointManifest, digits: DatasetInfo
) -> None:
    record = evaluate_checkpoint(evaluated_store, base, base, 8, SETTINGS, digits)
    assert record.distilled is None
    assert record.not_evaluated_reason == "8 sampling steps exceed evaluation.max_sampling_steps = 4"


def test_each_measurement_is_a_record_of_its_checkpoint(
    record: EvaluationRecord, evaluated_store: Store, student: CheckpointManifest
) -> None:
    assert record.distilled is not None
    key = f"evaluations/{student.id}/{record.distilled.spec.id}.json"
    assert key in [item.key for item in evaluated_store.list(f"evaluations/{student.id}/")]


def test_the_same_noise_is_shown_class_by_class(
    record: EvaluationRecord, evaluated_store: Store, student: CheckpointManifest
) -> None:
    entry = stage_entry(evaluated_store, student, record)
    assert entry.samples is not None and entry.baseline_ddim_samples is not None
    assert entry.samples.labels == (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1)
    assert decode_contact_sheet(entry.samples.png, 12).shape == (12, 8, 8, 1)


def test_samples_have_the_classes_in_the_shares_of_the_data(
    evaluated_store: Store, base: CheckpointManifest, digits: DatasetInfo
) -> None:
    """If half of the data are zeros, half of the samples are; equally frequent classes stay so."""
    uneven = digits.model_copy(update={"class_counts": (90, *(10,) * 9)})
    even = digits.model_copy(update={"class_counts": (10,) * 10})
    specs = {
        info.class_counts: plan_measurements(base, None, 2, SETTINGS, info, EVALUATOR)[0].spec
        for info in (digits, uneven, even)
    }
    assert sum(digits.class_counts) == digits.splits["train"]
    assert specs[digits.class_counts].class_counts == digits.class_counts
    assert specs[even.class_counts].class_counts is None
    record = evaluate_checkpoint(evaluated_store, base, None, 2, SETTINGS, uneven)
    assert record.distilled is not None and record.distilled.shown is not None
    assert record.distilled.spec.class_counts == uneven.class_counts
    assert record.distilled.shown.labels is not None
    assert record.distilled.shown.labels[:10].count(0) == 5


def test_a_plan_lists_every_measurement_and_its_trials_once(
    student: CheckpointManifest, base: CheckpointManifest, digits: DatasetInfo
) -> None:
    changes = {"tuned_gammas": 3, "stochastic_students": True, "tuning_samples": 30}
    settings = SETTINGS.model_copy(update=changes)
    plan = plan_measurements(student, base, 2, settings, digits, EVALUATOR)
    fields = ["distilled", "baseline_ddim", "baseline_ancestral", "distilled_ancestral"]
    assert [planned.field for planned in plan] == fields
    assert [len(planned.trials) for planned in plan] == [0, 0, 3, 3]
    assert not any(planned.spec.trial for planned in plan)
    trials = [trial for planned in plan for trial in planned.trials]
    assert {trial.gamma for trial in trials} == {0.0, 0.5, 1.0}
    assert {(trial.trial, trial.samples, trial.seed) for trial in trials} == {(True, 30, settings.tuning_seed)}
    at_one_step = plan_measurements(student, base, 1, settings, digits, EVALUATOR)
    assert not any(planned.trials for planned in at_one_step)


def test_a_student_finds_the_model_it_descends_from(
    evaluated_store: Store, student: CheckpointManifest, base: CheckpointManifest
) -> None:
    assert baseline_of(evaluated_store, student) == base
    assert baseline_of(evaluated_store, base) == base


def test_records_survive_their_own_json(record: EvaluationRecord) -> None:
    assert EvaluationRecord.model_validate_json(record.model_dump_json()) == record
    assert all(isinstance(m, Measurement) for m in record.measurements)


def test_gamma_is_tuned_on_other_noise_than_it_is_reported_on(
    evaluated_store: Store, student: CheckpointManifest, base: CheckpointManifest, digits: DatasetInfo
) -> None:
    settings = SETTINGS.model_copy(update={"tuned_gammas": 3, "tuning_samples": 30, "seed": 7})
    found = evaluate_checkpoint(evaluated_store, student, base, 2, settings, digits).baseline_ancestral
    records = list_records(evaluated_store, f"evaluations/{base.id}/", Measurement)
    trials = [record for record in records if record.spec.trial and record.spec.samples == 30]
    assert sorted(trial.spec.gamma or 0.0 for trial in trials) == [0.0, 0.5, 1.0]
    assert found is not None
    assert found.spec.gamma == min(trials, key=lambda trial: trial.distance).spec.gamma
    assert found.spec.seed == 7


def test_students_are_sampled_stochastically_on_request(
    evaluated_store: Store, student: CheckpointManifest, base: CheckpointManifest, digits: DatasetInfo
) -> None:
    settings = SETTINGS.model_copy(update={"stochastic_students": True})
    found = evaluate_checkpoint(evaluated_store, student, base, 2, settings, digits).distilled_ancestral
    assert found is not None
    assert (found.spec.checkpoint_id, found.spec.sampler) == (student.id, SamplerName.ANCESTRAL)
    assert evaluate_checkpoint(evaluated_store, base, base, 2, settings, digits).distilled_ancestral is None


@pytest.mark.parametrize("settings", [{"tuned_gammas": 1}, {"tuned_gammas": 11, "tuning_seed": 0}])
def test_settings_that_would_flatter_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="tun"):
        EvaluationSettings.model_validate(settings)
