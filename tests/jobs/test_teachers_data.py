"""Students learn from the very data of their teacher, unless other data is named."""

from pathlib import Path

import pytest

from progdistill.artifacts.checkpoint import UNKNOWN_DATASET, CheckpointKind
from progdistill.artifacts.store import Store
from progdistill.data.dataset import DatasetInfo
from progdistill.errors import UsageError
from progdistill.options import RunOptions
from progdistill.prepare import PreparedRun, prepare_run
from progdistill.presets import PRESETS
from tests.jobs.conftest import publish

DIGITS = PRESETS["digits"].model
OTHER = "f" * 64


@pytest.fixture(autouse=True)
def _data(data_root: Path, digits: DatasetInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGDISTILL_DATA", str(data_root))


def branch(store: Store, fingerprint: str, **options: object) -> PreparedRun:
    """The plan of a run from a teacher that was trained on `digits` with that fingerprint."""
    kind = CheckpointKind.IMPORTED if fingerprint == UNKNOWN_DATASET else CheckpointKind.BASE
    teacher = publish(store, DIGITS, kind, dataset_fingerprint=fingerprint)
    return prepare_run(RunOptions.model_validate({"store": store.uri, "from_": teacher.id, **options}))


def test_data_that_has_become_another_is_refused_with_both_fingerprints(
    store: Store, digits: DatasetInfo
) -> None:
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


def test_the_plan_tells_what_is_said_of_a_model_that_comes_from_the_teacher(
    store: Store, digits: DatasetInfo
) -> None:
    own, other = f"model.prediction={DIGITS.prediction}", "model.network.base_channels=8"
    assert "without effect" not in branch(store, digits.fingerprint, set=(own,)).describe()
    plan = branch(store, digits.fingerprint, set=(own, other)).describe()
    assert "without effect, as the model is the teacher's: model.network.base_channels" in plan
    assert "model.prediction" not in plan
