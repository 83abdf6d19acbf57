"""Scripts read `report.json`: its field names are stable."""

import json
from pathlib import Path

import pytest

from tests.report.runs import DDIM, DISTILLED, STEPS

TOP = {"schema_version", "run_id", "dataset", "dataset_fingerprint", "evaluator", "seed", "code_version", "checkpoints"}
CHECKPOINT = {
    "sampling_steps", "id", "parent", "kind", "distance", "distance_name", "inception_score", "baseline_ddim",
    "baseline_ancestral", "updates", "images", "seconds", "images_per_second",
    "model_flops_utilization",
}  # fmt: skip


@pytest.fixture(scope="module")
def facts(built_report: Path) -> dict[str, object]:
    read: dict[str, object] = json.loads((built_report.parent / "report.json").read_text())
    return read


def test_every_promised_name_is_there(facts: dict[str, object]) -> None:
    assert set(facts) >= TOP
    assert facts["schema_version"] == 2
    checkpoints = facts["checkpoints"]
    assert isinstance(checkpoints, list)
    assert all(set(checkpoint) >= CHECKPOINT for checkpoint in checkpoints)


def test_the_figures_are_the_run_s(facts: dict[str, object]) -> None:
    checkpoints = facts["checkpoints"]
    assert isinstance(checkpoints, list)
    figures = [(c["sampling_steps"], c["distance"], c["baseline_ddim"]) for c in checkpoints]
    assert figures == list(zip(STEPS, DISTILLED, DDIM, strict=True))
    assert {c["distance_name"] for c in checkpoints} == {"frechet_digits_classifier"}


def test_it_is_small_enough_to_read(facts: dict[str, object]) -> None:
    assert len(json.dumps(facts)) < 20_000
    assert "samples" not in str(facts["checkpoints"]).replace("evaluated_samples", "")
