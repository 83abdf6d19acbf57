"""`--reproduce` from option to settings, and refusals before anything starts."""

from pathlib import Path

import pytest

from progdistill.config.options import RunOptions
from progdistill.config.presets import PRESETS
from progdistill.data.dataset import DatasetInfo
from progdistill.errors import UsageError
from progdistill.models.denoiser import build_denoiser, save_weights, weights_of
from progdistill.registry.aliases import move_alias
from progdistill.registry.checkpoint import CheckpointKind, CheckpointManifest, publish_checkpoint
from progdistill.run.prepare import PreparedRun, prepare_run
from progdistill.store.base import Store
from tests.jobs.conftest import publish
from tests.registry.samples import description, provenance

DIGITS = PRESETS["digits"].model


@pytest.fixture(autouse=True)
def _data(data_root: Path, digits: DatasetInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGDISTILL_DATA", str(data_root))


def plan(store: Store, **options: object) -> PreparedRun:
    return prepare_run(RunOptions.model_validate({"store": store.uri, **options}))


def made_by(store: Store, run: PreparedRun, steps: int = 1) -> CheckpointManifest:
    """A student as that run would publish it, named `production`."""
    weights = store.scratch() / "weights.safetensors"
    save_weights(weights_of(build_denoiser(run.settings.model, seed=1)), weights)
    identity = description(
        kind=CheckpointKind.STUDENT,
        sampling_steps=steps,
        parent="b" * 64,
        architecture=run.settings.model.model_dump(mode="json"),
    )
    manifest = publish_checkpoint(
        store, weights, identity, provenance(configuration=run.settings.model_dump(mode="json"))
    )
    move_alias(store, "production", manifest.id, "tester")
    return manifest


def test_a_run_like_another_has_its_settings(store: Store) -> None:
    first = plan(store, ladder="16:2", seed=7, guidance_scale="1:5", set=("distill.learning_rate=0.5",))
    made_by(store, first)
    assert plan(store, reproduce="production").settings == first.settings


def test_options_change_what_they_name(store: Store) -> None:
    first = plan(store, ladder="16:2", seed=7)
    made_by(store, first)
    again = plan(store, reproduce="production", ladder="8:1", base_updates=3, set=("evaluation.samples=9",))
    assert again.settings.ladder == (8, 4, 2, 1) and again.settings.seed == 7
    assert (again.settings.base.updates, again.settings.evaluation.samples) == (3, 9)
    assert again.settings.distill == first.settings.distill


def test_where_a_run_works_is_not_taken_over(store: Store, tmp_path: Path) -> None:
    elsewhere = plan(store).settings.model_copy(update={"store": "s3://another/place"})
    made_by(store, plan(store).model_copy(update={"settings": elsewhere}))
    assert plan(store, reproduce="production").settings.store == store.uri


def test_a_branch_starts_again_from_its_own_teacher(store: Store, digits: DatasetInfo) -> None:
    own = {"sampling_steps": 8, "dataset_fingerprint": digits.fingerprint}
    teacher = publish(store, DIGITS, CheckpointKind.STUDENT, **own)
    branch = plan(store, start_from=teacher.id, set=("distill.learning_rate=0.5",))
    made_by(store, branch)
    again = plan(store, reproduce="production")
    assert again.settings == branch.settings and again.settings.first_teacher == teacher.id


def test_the_plan_says_which_checkpoint_it_is_like(store: Store) -> None:
    manifest = made_by(store, plan(store))
    assert f"reproduces production ({manifest.id[:12]})" in plan(store, reproduce="production").describe()
    assert "reproduces" not in plan(store).describe()
    assert plan(store, reproduce="production").facts()["reproduces"] == manifest.id


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reproduce": "nobody"}, "'nobody' not found"),
        ({"reproduce": "imported"}, "does not have the settings of a run"),
        ({"reproduce": "imported", "start_from": "abcd"}, "decides what --from abcd would"),
        ({"reproduce": "imported", "preset": "digits"}, "decides what --preset digits would"),
        ({"reproduce": "imported", "guidance_scale": "1:5"}, "decides what --guidance-scale 1:5 would"),
    ],
)
def test_what_cannot_be_is_refused_by_name(store: Store, options: dict[str, object], words: str) -> None:
    move_alias(store, "imported", publish(store, DIGITS, CheckpointKind.IMPORTED).id, "tester")
    with pytest.raises(UsageError) as refused:
        plan(store, **options)
    assert words in str(refused.value)
