"""Schedulers of diffusers: those whose noise is that of their betas are imported, others are refused."""

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.noise_schedules import DiscreteSchedule
from progdistill.errors import UsageError
from progdistill.models.diffusers_schedule import SCHEDULERS, read_schedule

# Of diffusers' own use of numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

NEEDS_TORCHSDE = "DPMSolverSDEScheduler"


def saved(folder: Path, scheduler: Any) -> dict[str, Any]:
    """What a scheduler writes about itself."""
    scheduler.save_pretrained(folder)
    facts: dict[str, Any] = json.loads((folder / "scheduler_config.json").read_text())
    return facts


def alpha_bar(facts: dict[str, Any]) -> torch.Tensor:
    """ᾱ as we understand it."""
    _, schedule = read_schedule(facts, Path("scheduler_config.json"))
    assert schedule is not None
    return torch.sigmoid(torch.tensor(schedule.log_snr(), dtype=torch.float64))


@pytest.mark.parametrize("name", sorted(SCHEDULERS.keys() - {NEEDS_TORCHSDE}))
def test_the_noise_is_that_which_the_scheduler_adds(tmp_path: Path, name: str) -> None:
    """Also where the file leaves the schedule to the class, as hand-written ones do."""
    scheduler = getattr(diffusers, name)()
    facts = saved(tmp_path, scheduler)
    for stated in (facts, {"_class_name": name}):
        torch.testing.assert_close(
            alpha_bar(stated), scheduler.alphas_cumprod.double(), rtol=2e-3, atol=1e-6, msg=str(stated)
        )
        assert read_schedule(stated, tmp_path)[0] is PredictionType.EPS


@pytest.mark.parametrize(
    "name",
    [
        "CMStochasticIterativeScheduler",
        "CogVideoXDDIMScheduler",
        "CogVideoXDPMScheduler",
        "DDPMWuerstchenScheduler",
        "EDMDPMSolverMultistepScheduler",
        "EDMEulerScheduler",
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
        "IPNDMScheduler",
        "SCMScheduler",
        "ScoreSdeVeScheduler",
    ],
)
def test_schedulers_of_other_noise_are_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"is for {name}, .* --scheduler FILE"):
        read_schedule(saved(tmp_path, getattr(diffusers, name)()), tmp_path)


@pytest.mark.parametrize(
    ("name", "settings", "complaint"),
    [
        ("DPMSolverMultistepScheduler", {"prediction_type": "flow_prediction"}, "'flow_prediction' is not one of"),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True}, "use_flow_sigmas = True"),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr = True"),
        (
            "EulerDiscreteScheduler",
            {"timestep_type": "continuous", "prediction_type": "v_prediction"},
            "timestep_type = 'continuous'",
        ),
    ],
)
def test_settings_that_change_the_noise_are_refused(
    tmp_path: Path, name: str, settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        read_schedule(saved(tmp_path, getattr(diffusers, name)(**settings)), tmp_path)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
        ("EulerDiscreteScheduler", {"timestep_type": "continuous"}),
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True, "timestep_spacing": "trailing"}),
        ("DDIMScheduler", {"clip_sample": False, "steps_offset": 1}),
    ],
)
def test_choices_of_sampling_change_nothing(tmp_path: Path, name: str, settings: dict[str, Any]) -> None:
    found = read_schedule(saved(tmp_path, getattr(diffusers, name)(**settings)), tmp_path)
    assert found == (PredictionType.EPS, DiscreteSchedule(kind="linear"))


def test_a_file_without_a_class_must_state_its_betas() -> None:
    path, cosine = Path("scheduler_config.json"), {"beta_schedule": "squaredcos_cap_v2"}
    found = read_schedule({**cosine, "prediction_type": "v_prediction"}, path)
    assert found == (PredictionType.V, DiscreteSchedule(kind="squaredcos_cap_v2"))
    with pytest.raises(UsageError, match="names no scheduler"):
        read_schedule({"num_train_timesteps": 1000}, path)
