"""Files and evaluators that a user names replace those of an earlier run."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import JsonValue

from progdistill.config.options import RunOptions
from progdistill.config.overrides import apply_overrides
from progdistill.config.presets import evaluation_settings
from progdistill.config.settings import settings_from
from progdistill.data.dataset import DatasetInfo
from progdistill.errors import UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.published_statistics import pinned_statistics
from progdistill.evaluation.runner import MeasurementRunner
from progdistill.features.weights import sha256_of
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.store.base import Store

OLD, NEW = "a" * 64, "b" * 64
RECORDED = {
    "evaluator": "features_file",
    "weights": "old.pt",
    "weights_sha256": OLD,
    "reference_statistics": "old.npz",
    "reference_statistics_sha256": OLD,
    "samples": 40,
}
OF_FILES = {name: None for name in RECORDED if name not in ("evaluator", "samples")}


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({}, {}),
        ({"samples": 9}, {"samples": 9}),
        ({"weights": "new.pt"}, {"weights": "new.pt", "weights_sha256": None}),
        ({"weights": "old.pt"}, {"weights_sha256": None}),
        ({"weights": "x.pt", "weights_sha256": NEW}, {"weights": "x.pt", "weights_sha256": NEW}),
        ({"weights_sha256": NEW}, {"weights_sha256": NEW}),
        ({"reference_statistics": "new.npz"}, {"reference_statistics": "new.npz", "reference_statistics_sha256": None}),
        ({"reference_statistics_sha256": NEW}, {"reference_statistics_sha256": NEW}),
        ({"evaluator": "features_file"}, {}),
        ({"evaluator": "inception"}, {**OF_FILES, "evaluator": "inception"}),
        (
            {"evaluator": "inception", "weights": "inception.pt"},
            {**OF_FILES, "evaluator": "inception", "weights": "inception.pt"},
        ),
    ],
)
def test_a_change_takes_with_it_what_was_recorded_of_the_file_before(
    changes: dict[str, object], differs: dict[str, object]
) -> None:
    found = EvaluationSettings.model_validate(apply_overrides(RECORDED, changes))
    assert found == EvaluationSettings.model_validate(RECORDED | differs)


def settings_of(manifest: CheckpointManifest, info: DatasetInfo, changes: dict[str, JsonValue]) -> EvaluationSettings:
    recorded = manifest.provenance.configuration.get("evaluation")
    return evaluation_settings(recorded, info, sampling_steps=2, changes=changes)


def published(folder: Path, name: str, mean: float) -> Path:
    path = folder / f"{name}.npz"
    np.savez(path, mu=np.full(64, mean), sigma=np.eye(64))
    return path


@pytest.fixture
def old(evaluated_store: Store, tmp_path: Path) -> EvaluationSettings:
    """Settings as a run records them whose statistics are in the store."""
    file = published(tmp_path, "old", 0.0)
    named = EvaluationSettings(samples=40, shown_samples=0, reference_statistics=str(file))
    return pinned_statistics(evaluated_store, named)


def test_evaluate_compares_with_the_statistics_that_are_named(
    evaluated_store: Store, student: CheckpointManifest, digits: DatasetInfo, old: EvaluationSettings, tmp_path: Path
) -> None:
    provenance = student.provenance.model_copy(update={"configuration": {"evaluation": old.model_dump(mode="json")}})
    manifest = student.model_copy(update={"provenance": provenance})
    new = published(tmp_path, "new", 50.0)
    named: dict[str, JsonValue] = {"reference_statistics": str(new)}
    for changes, mean in (({}, 0.0), (named, 50.0)):
        settings = evaluation_settings(
            manifest.provenance.configuration.get("evaluation"), digits, sampling_steps=2, changes=changes
        )
        reference = MeasurementRunner(evaluated_store, settings, digits).reference
        assert reference.mean.tolist() == [mean] * 64


def run_like(like: EvaluationSettings | None, *assignments: str) -> EvaluationSettings:
    other = None
    if like is not None:
        other = settings_from(RunOptions()).model_copy(update={"evaluation": like})
    return settings_from(RunOptions(set=assignments), None, other).evaluation


def test_a_run_like_another_compares_with_the_statistics_that_are_named(
    old: EvaluationSettings, tmp_path: Path
) -> None:
    new = published(tmp_path, "new", 50.0)
    found = run_like(old, f"evaluation.reference_statistics={new}")
    assert (found.reference_statistics, found.reference_statistics_sha256) == (str(new), None)
    assert run_like(old, "evaluation.samples=40", "seed=3") == old
    assert run_like(old, 'evaluation={"samples": 7}') == old.model_copy(update={"samples": 7})
    found = run_like(old, f'evaluation={{"reference_statistics": "{new}"}}')
    assert (found.reference_statistics, found.reference_statistics_sha256) == (str(new), None)


def test_a_run_like_another_with_another_evaluator_leaves_its_network(old: EvaluationSettings) -> None:
    like = old.model_copy(update={"evaluator": "features_file", "weights": "a.pt", "weights_sha256": OLD})
    found = run_like(like, "evaluation.evaluator=digits_classifier")
    assert found == EvaluationSettings(samples=40, shown_samples=0)


@pytest.mark.parametrize("like", [False, True])
@pytest.mark.parametrize("address", ["{}", "file://{}"])
@pytest.mark.parametrize("name", ["weights", "reference_statistics"])
def test_a_named_file_of_another_digest_than_stated_is_refused(
    name: str, address: str, like: bool, old: EvaluationSettings, tmp_path: Path
) -> None:
    """Even where the store has the one that is stated, and so would need no file."""
    other = published(tmp_path, "other", 1.0)
    named = f"evaluation.{name}={address.format(other)}"
    digest = f"evaluation.{name}_sha256={old.reference_statistics_sha256}"
    with pytest.raises(UsageError, match=rf"evaluation\.{name} = .*other\.npz has SHA-256 .* is expected"):
        run_like(old if like else None, named, digest)
    stated = run_like(None, named, f"evaluation.{name}_sha256={sha256_of(other)}")
    assert getattr(stated, name) == address.format(other)


def test_inception_from_another_file_than_the_official_one_needs_its_digest(
    student: CheckpointManifest, digits: DatasetInfo, tmp_path: Path
) -> None:
    weights = tmp_path / "inception.pt"
    weights.write_bytes(b"a network")
    changes: dict[str, JsonValue] = {"evaluator": "inception", "weights": str(weights)}
    with pytest.raises(UsageError, match="--inception-sha256"):
        evaluation_settings(
            student.provenance.configuration.get("evaluation"), digits, sampling_steps=2, changes=changes
        )
    changes["weights_sha256"] = sha256_of(weights)
    assert evaluation_settings(
        student.provenance.configuration.get("evaluation"), digits, sampling_steps=2, changes=changes
    ).weights == str(weights)


def test_what_a_run_recorded_stands_by_its_digest_after_the_file_has_changed(
    old: EvaluationSettings, tmp_path: Path
) -> None:
    published(tmp_path, "old", 2.0)
    assert run_like(old, "seed=3") == old
