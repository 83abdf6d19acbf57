"""The ONNX file computes our DDIM step, and the model card shows how to sample with it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from progdistill.diffusion.grid import AngleGrid
from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.noise_schedules import DiscreteSchedule
from progdistill.diffusion.samplers import ddim
from progdistill.models.denoiser import Denoiser
from progdistill.models.onnx_export import DenoisingStep
from progdistill.store.base import Store
from tests.models.command_line import follow_card, publish, run
from tests.models.conftest import MakeDenoiser


@pytest.mark.parametrize("levels", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_onnxruntime_makes_our_step(make_denoiser: MakeDenoiser, store: Store, tmp_path: Path, levels: int) -> None:
    """The most demanding case in one export: labels, a guidance input, ε of a foreign schedule."""
    schedule = DiscreteSchedule(kind="squaredcos_cap_v2")
    network = {"channel_multipliers": (1, 2)[:levels], "guidance_input": True}
    denoiser = make_denoiser(PredictionType.EPS, schedule, **network)
    student, out = publish(store, denoiser, tmp_path), tmp_path / "out"
    assert run(store, "export", student, "--format", "onnx", "--out", out) == 0
    card = follow_card(out)
    assert card["images"].shape == (4, 1, 8, 8)
    assert card["inputs"]["guidance_scale"].tolist() == [2, 2, 2, 2]
    assert "guidance scale is an input; the lowest it was trained with is 2 " in (out / "README.md").read_text()
    for batch in (1, 3):
        assert_same_step(denoiser, card["session"], batch)


def assert_same_step(denoiser: Denoiser, session: Any, batch: int) -> None:
    """Both outputs of one step agree."""
    inputs = {
        "z": torch.randn(batch, 1, 8, 8),
        "t": torch.linspace(0.5, 0.8, batch),
        "t_next": torch.linspace(0.3, 0.5, batch),
        "labels": torch.arange(batch),
        "guidance_scale": torch.linspace(1, 4, batch),
    }
    assert [entry.name for entry in session.get_inputs()] == list(inputs)
    with torch.no_grad():
        expected = DenoisingStep(denoiser)(**inputs)
    found = session.run(["z_next", "velocity"], {name: value.numpy() for name, value in inputs.items()})
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-4, atol=1e-4)


def test_the_exported_step_is_that_of_the_sampler(make_denoiser: MakeDenoiser) -> None:
    denoiser, labels = make_denoiser(), torch.tensor([1, 2])
    step, start = DenoisingStep(denoiser), torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        z = start
        for i in (2, 1):
            z, _ = step(z, torch.full((2,), i / 2), torch.full((2,), (i - 1) / 2), labels)
        torch.testing.assert_close(z, ddim(denoiser.bind({"label": labels}), start, AngleGrid().times(2)))
