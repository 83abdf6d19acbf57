"""The prediction type and the noise schedule of a network, from a diffusers scheduler_config.json."""

from functools import partial
from math import isclose
from pathlib import Path
from typing import Any

from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.noise_schedules import DiscreteSchedule
from progdistill.errors import UsageError
from progdistill.models.config import TIME_SCALE
from progdistill.models.diffusers_export import cosine_betas

_PREDICTIONS = {"epsilon": PredictionType.EPS, "sample": PredictionType.X, "v_prediction": PredictionType.V}
_KINDS = ("linear", "scaled_linear", "squaredcos_cap_v2")
_DDPM = DiscreteSchedule(kind="linear")
_STABLE_DIFFUSION = DiscreteSchedule(kind="linear", beta_start=0.00085, beta_end=0.012)
_LATENT = DiscreteSchedule(kind="scaled_linear", beta_start=0.00085, beta_end=0.012)
_OF_DDPM = (
    *("DDIMInverseScheduler", "DDIMParallelScheduler", "DDIMScheduler", "DDPMParallelScheduler", "DDPMScheduler"),
    *("DEISMultistepScheduler", "DPMSolverMultistepInverseScheduler", "DPMSolverMultistepScheduler"),
    *("DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler"),
    *("LMSDiscreteScheduler", "PNDMScheduler", "RePaintScheduler", "SASolverScheduler", "UniPCMultistepScheduler"),
)
_OF_STABLE_DIFFUSION = (
    *("DPMSolverSDEScheduler", "HeunDiscreteScheduler"),
    *("KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler"),
)
SCHEDULERS = {
    **dict.fromkeys(_OF_DDPM, _DDPM),
    **dict.fromkeys(_OF_STABLE_DIFFUSION, _STABLE_DIFFUSION),
    **dict.fromkeys(("LCMScheduler", "TCDScheduler"), _LATENT),
    "UnCLIPScheduler": DiscreteSchedule(kind="squaredcos_cap_v2"),
}
"""The classes of diffusers 0.42.1 whose noise is ᾱ_k = Π (1 − β_j), each with its default schedule."""


def read_schedule(facts: dict[str, Any], path: Path) -> tuple[PredictionType, DiscreteSchedule | None]:
    """Read what a network's output means, and the schedule it was trained on; None: ours.

    Settings of how a scheduler steps (`use_karras_sigmas`, `timestep_spacing`, …) do not matter here.

    Args:
        facts: The contents of the scheduler_config.json.
        path: The file, for messages.

    Raises:
        UsageError: The prediction or the noise has no counterpart here.
    """
    defaults = _defaults(facts, path)
    prediction = _PREDICTIONS.get(str(facts.get("prediction_type", "epsilon")))
    if prediction is None:
        raise UsageError(
            f"{path}: prediction_type {facts['prediction_type']!r} is not one of {', '.join(_PREDICTIONS)}"
        )
    _check_forward_process(facts, path)
    return prediction, _schedule(facts, defaults, path)


def _defaults(facts: dict[str, Any], path: Path) -> DiscreteSchedule:
    """The default schedule of the scheduler's class."""
    name = facts.get("_class_name")
    if name is None:
        if facts.get("beta_schedule") is None and facts.get("trained_betas") is None:
            raise UsageError(
                f"{path} names no scheduler (_class_name) and no beta_schedule, so it is unknown what noise"
                " its network was trained on; give the file of its training with --scheduler FILE"
            )
        return _DDPM
    if str(name) not in SCHEDULERS:
        raise UsageError(
            f"{path} is for {name}, which is not known to add noise as DDPMScheduler does; if the network"
            " was trained with a scheduler that does (docs/models.md lists them), give its file with"
            " --scheduler FILE"
        )
    return SCHEDULERS[str(name)]


def _check_forward_process(facts: dict[str, Any], path: Path) -> None:
    """Raise UsageError for settings that change the noise of the betas or the time input."""
    refused = [name for name in ("rescale_betas_zero_snr", "use_flow_sigmas") if facts.get(name)]
    # Euler's continuous time is log(σ)/4, and diffusers uses it with v alone.
    if facts.get("timestep_type") == "continuous" and facts.get("prediction_type") == "v_prediction":
        refused.append("timestep_type")
    if refused:
        raise UsageError(
            f"{path}: {refused[0]} = {facts[refused[0]]!r} is not supported: the network's noise is then not"
            " that of its beta_schedule at its time; choose a model trained without it"
        )


def _schedule(facts: dict[str, Any], defaults: DiscreteSchedule, path: Path) -> DiscreteSchedule | None:
    betas = facts.get("trained_betas")
    if betas is not None:
        # Up to the differences between two machines' sines.
        numbers = isinstance(betas, list) and all(type(beta) in (int, float) and 0 <= beta <= 1 for beta in betas)
        if numbers and len(betas) == TIME_SCALE and all(map(partial(isclose, rel_tol=1e-12), betas, cosine_betas())):
            return None
        raise UsageError(f"{path}: trained_betas other than those of this package's exports cannot be imported")
    kind = facts.get("beta_schedule", defaults.kind)
    if kind not in _KINDS:
        raise UsageError(f"{path}: beta_schedule {kind!r} is not one of {', '.join(_KINDS)}")
    fields = {"kind": kind, "steps": facts.get("num_train_timesteps", defaults.steps)}
    if kind != "squaredcos_cap_v2":
        fields["beta_start"] = facts.get("beta_start", defaults.beta_start)
        fields["beta_end"] = facts.get("beta_end", defaults.beta_end)
    try:
        return DiscreteSchedule(**fields)
    except ValueError as error:
        raise UsageError(f"{path} does not describe a schedule: {error}") from error
