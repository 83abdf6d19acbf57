"""A model card contains the reported measurements, and states how their samples were drawn."""

from pathlib import Path

from progdistill.data.dataset import DatasetInfo
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.evaluate import evaluate_checkpoint
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.registry.evaluations import evaluations_of
from progdistill.store.base import Store
from tests.evaluation.conftest import publish
from tests.models.command_line import run

SETTINGS = EvaluationSettings(samples=20, batch_size=20, shown_samples=4, tuned_gammas=2)


def figures(store: Store, manifest: CheckpointManifest, folder: Path) -> list[str]:
    """The lines of the card's figures, without the distance."""
    assert run(store, "export", manifest.id, "--format", "safetensors", "--out", folder) == 0
    card = (folder / "README.md").read_text()
    lines = card.partition("## Figures\n\n")[2].partition("\n\n")[0].splitlines()
    return sorted(line.partition(": ")[2] for line in lines)


def test_a_card_names_guidance_gamma_and_clipping_and_leaves_trials_of_gamma_out(
    evaluated_store: Store, digits: DatasetInfo, tmp_path: Path
) -> None:
    base = publish(evaluated_store, tmp_path, digits, seed=30, label_dropout=True)
    student = publish(
        evaluated_store, tmp_path, digits, seed=31, parent=base.id, sampling_steps=2, guidance_scale=(1.0, 5.0)
    )
    gammas = []
    for changes in ({}, {"guidance_scale": 4.0}, {"clip": False, "tuned_gammas": 0, "seed": 5}):
        settings = SETTINGS.model_copy(update=changes)
        found = evaluate_checkpoint(evaluated_store, student, base, 2, settings, digits).baseline_ancestral
        assert found is not None
        gammas.append(found.spec.gamma)
    ways = (", 20 samples", ", guidance scale 4, 20 samples", ", without clipping, seed 5, 20 samples")
    with_ddim = [f"2 steps of ddim{way}" for way in ways]
    ancestral = [f"2 steps of ancestral, γ = {gamma:g}{way}" for gamma, way in zip(gammas, ways, strict=True)]
    assert figures(evaluated_store, student, tmp_path / "student") == with_ddim
    assert figures(evaluated_store, base, tmp_path / "base") == sorted(ancestral + with_ddim)
    trials = 2 * SETTINGS.tuned_gammas
    assert len(evaluations_of(evaluated_store, base.id)) == len(ancestral + with_ddim) + trials
