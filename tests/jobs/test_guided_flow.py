"""From digits to a guided student of few steps to stock diffusers, as in the README."""

import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from progdistill.diffusion.grid import AngleGrid
from progdistill.diffusion.samplers import ddim
from progdistill.models.denoiser import Denoiser
from progdistill.models.load import load_denoiser
from progdistill.registry.resolve import resolve_reference
from progdistill.store.open import open_store
from tests.end_to_end.running import environment, report_of, run_flow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

UPDATES = ("--base-updates", "300", "--updates-per-stage", "150", "--set", "evaluation.samples=50")
LABELS = torch.arange(20) % 10
NOISE = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: a base model with dropped labels, its guided student of 4 steps, and that one's."""
    folder = tmp_path_factory.mktemp("guided")
    done = run_flow(folder, "run", "--guidance-scale", "1:5", "--ladder", "4:2", *UPDATES)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "guidance scales 1:5" in done.stdout
    return folder


def progdistill(folder: Path, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "progdistill.cli.main", *words],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def checkpoint(folder: Path, reference: str) -> tuple[str | None, Denoiser]:
    """A checkpoint's parent, and its denoiser."""
    store = open_store(str(folder / ".progdistill" / "store"))
    manifest = resolve_reference(store, reference)
    return manifest.identity.parent, load_denoiser(store, manifest)


def drawn(denoiser: Denoiser, steps: int, w: float) -> torch.Tensor:
    with torch.no_grad():
        return ddim(denoiser.bind({"label": LABELS}, w), NOISE, AngleGrid().times(steps))


def test_the_ladder_starts_with_the_guided_student_of_the_base_model(folder: Path) -> None:
    checkpoints = report_of(folder)["checkpoints"]
    assert [(c["sampling_steps"], c["kind"]) for c in checkpoints] == [(4, "student"), (2, "student")]
    base, guided = checkpoint(folder, checkpoints[0]["id"])
    assert guided.config.network.guidance_input and checkpoints[1]["parent"] == checkpoints[0]["id"]
    assert base is not None and not checkpoint(folder, base)[1].config.network.guidance_input


def test_a_distilled_student_follows_the_scale_as_the_guided_base_model_does(folder: Path) -> None:
    checkpoints = report_of(folder)["checkpoints"]
    base_id, _ = checkpoint(folder, checkpoints[0]["id"])
    assert base_id is not None
    (_, base), (_, student) = checkpoint(folder, base_id), checkpoint(folder, checkpoints[1]["id"])
    teachers_change = drawn(base, 4, 4.0) - drawn(base, 4, 0.0)
    students_change = drawn(student, 2, 4.0) - drawn(student, 2, 0.0)
    together = torch.stack((teachers_change.flatten(), students_change.flatten()))
    assert torch.corrcoef(together)[0, 1] > 0.5


def test_the_picture_is_drawn_at_the_stated_scale(folder: Path) -> None:
    reference = f"DistillFlow/{report_of(folder)['run_id']}/2"
    for scale in ("1", "4"):
        out = f"grid-{scale}.png"
        progdistill(folder, "sample", reference, "--count", "9", "--guidance-scale", scale, "--out", out)
    pictures = [np.asarray(Image.open(folder / f"grid-{scale}.png")).astype(int) for scale in (1, 4)]
    assert np.abs(pictures[0] - pictures[1]).max() > 10


def test_the_export_draws_in_stock_diffusers_what_the_student_draws(folder: Path) -> None:
    reference = f"DistillFlow/{report_of(folder)['run_id']}/2"
    words = ("--format", "diffusers", "--guidance-scale", "3", "--out", "exported")
    progdistill(folder, "export", reference, *words)
    unet = diffusers.UNet2DModel.from_pretrained(folder / "exported" / "unet")
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder / "exported" / "scheduler")
    scheduler.set_timesteps(2)
    z = NOISE
    with torch.no_grad():
        for t in scheduler.timesteps:
            z = scheduler.step(unet(z, t, class_labels=LABELS).sample, t, z).prev_sample
    ours = drawn(checkpoint(folder, reference)[1], 2, 2.0)
    assert ours.std() > 0.1 and (ours - z).abs().max() <= 1e-3
