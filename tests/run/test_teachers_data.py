"""Students are trained on the dataset of their teacher, unless another dataset is named."""

from pathlib import Path

import pytest

from progdistill.cli.main import main
from progdistill.config.options import RunOptions
from progdistill.config.presets import PRESETS
from progdistill.data.catalog import UNKNOWN_DATASET
from progdistill.data.dataset import DatasetInfo
from progdistill.errors import UsageError
from progdistill.models.denoiser import build_denoiser, save_weights, weights_of
from progdistill.registry.checkpoint import CheckpointKind, publish_checkpoint
from progdistill.run.prepare import PreparedRun, prepare_run
from progdistill.store.base import Store
from tests.jobs.conftest import publish
from tests.registry.samples import description, provenance

DIGITS = PRESETS["digits"].model
OTHER = "f" * 64


@pytest.fixture(autouse=True)
def _data(data_root: Path, digits: DatasetInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGDISTILL_DATA", str(data_root))


def branch(store: Store, fingerprint: str, **options: object) -> PreparedRun:
    """The plan of a run from a teacher that was trained on `digits` with that fingerprint."""
    kind = CheckpointKind.IMPORTED if fingerprint == UNKNOWN_DATASET else CheckpointKind.BASE
    teacher = publish(store, DIGITS, kind, dataset_fingerprint=fingerprint)
    return prepare_run(RunOptions.model_validate({"store": store.uri, "start_from": teacher.id, **options}))


def test_data_that_has_become_another_is_refused_with_both_fingerprints(store: Store, digits: DatasetInfo) -> None:
    with pytest.raises(UsageError, match=rf"^--from .* {OTHER}, but digits in .* {digits.fingerprint}: "):
        branch(store, OTHER)


def test_other_data_is_used_when_it_is_named_and_the_plan_says_so(store: Store) -> None:
    assert "was trained on other data" in branch(store, OTHER, dataset="digits").describe()


def test_the_teachers_own_data_is_used_without_a_word(store: Store, digits: DatasetInfo) -> None:
    for run in (branch(store, digits.fingerprint), branch(store, digits.fingerprint, dataset="digits")):
        assert run.dataset == digits and "other data" not in run.describe()


def test_an_imported_model_is_taken_at_the_word_of_who_imported_it(store: Store, digits: DatasetInfo) -> None:
    run = branch(store, UNKNOWN_DATASET)
    assert run.dataset == digits and "other data" not in run.describe()


def test_the_plan_tells_what_is_said_of_a_model_that_comes_from_the_teacher(store: Store, digits: DatasetInfo) -> None:
    own, other = f"model.prediction={DIGITS.prediction}", "model.network.base_channels=8"
    assert "ignored" not in branch(store, digits.fingerprint, set=(own,)).describe()
    plan = branch(store, digits.fingerprint, set=(own, other)).describe()
    assert "ignored, since the model is the teacher's: model.network.base_channels" in plan
    assert "model.prediction" not in plan


def test_the_ladder_of_a_file_begins_where_a_student_is_and_a_typed_one_must(store: Store, digits: DatasetInfo) -> None:
    data = digits.fingerprint
    teacher = publish(store, DIGITS, CheckpointKind.STUDENT, sampling_steps=4, dataset_fingerprint=data)
    asked = RunOptions(store=store.uri, start_from=teacher.id, ladder="16:2")
    of_file = asked.model_copy(update={"defaults": frozenset({"ladder"})})
    assert prepare_run(of_file).settings.ladder == (4, 2)
    with pytest.raises(UsageError, match="--ladder 16:2 starts at 16: write --ladder 4:2, or leave it out"):
        prepare_run(asked)


def test_a_teacher_whose_last_class_means_none_is_told_from_one_of_more_classes(store: Store) -> None:
    more = DIGITS.model_copy(update={"network": DIGITS.network.model_copy(update={"num_classes": 11})})
    teacher = publish(store, more, CheckpointKind.IMPORTED, dataset_fingerprint=UNKNOWN_DATASET)
    with pytest.raises(UsageError, match=r"^the network of teacher .* of 11 classes.*with --label-dropout$"):
        prepare_run(RunOptions(store=store.uri, start_from=teacher.id, dataset="digits"))


def test_a_model_of_unknown_data_is_measured_against_what_is_named(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = store.scratch() / "weights.safetensors"
    save_weights(weights_of(build_denoiser(DIGITS, seed=0)), weights)
    identity = description(kind=CheckpointKind.IMPORTED, dataset_fingerprint=UNKNOWN_DATASET)
    teacher = publish_checkpoint(store, weights, identity, provenance(dataset_name=UNKNOWN_DATASET))
    assert main(["evaluate", teacher.id, "--store", store.uri, "--steps", "2"]) == 2
    assert "pass dataset=NAME (command line: --dataset)" in capsys.readouterr().err
