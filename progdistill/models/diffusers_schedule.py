"""The prediction type and the noise schedule of a network, from a diffusers scheduler_config.json."""

import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from progdistill.diffusion.grid import FlowGrid, Grid, TrailingGrid
from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.noise_schedules import DiscreteSchedule, FlowSchedule, NoiseSchedule
from progdistill.errors import UsageError
from progdistill.models.config import TIME_SCALE
from progdistill.models.diffusers_export import cosine_betas
from progdistill.models.networks.diffusers import DiffusersNetwork

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

FLOW_SCHEDULERS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
"""Those whose noise is (1 − τ)·x + τ·ε; others are so with `use_flow_sigmas`."""


class Noise(NamedTuple):
    """The noise that a network was trained on, what its output means, and the times it is usually asked at."""

    prediction: PredictionType
    schedule: NoiseSchedule
    grid: Grid


def read_noise(facts: dict[str, Any], path: Path, network: DiffusersNetwork, reversed_time: bool = False) -> Noise:
    """Read the noise of a latent network.

    Args:
        facts: The contents of the scheduler_config.json.
        path: The file, for messages.
        network: The network.
        reversed_time: Whether its time runs from noise 0 to data 1, as SiT's, and it answers x − ε.

    Raises:
        UsageError: The scheduler is of another family than the network, or has no counterpart here.
    """
    is_flow = facts.get("_class_name") in FLOW_SCHEDULERS or bool(facts.get("use_flow_sigmas"))
    if ("flow" if is_flow else "betas") not in network.noise:
        kinds = ("rectified flow", "an index of betas")
        scheduler_kind, network_kind = kinds if is_flow else kinds[::-1]
        raise UsageError(
            f"{path} is for {facts.get('_class_name')}, of the family of {scheduler_kind}, but a {network.class_name}"
            f" belongs to that of {network_kind}: give the scheduler of its training with --scheduler FILE"
        )
    if reversed_time and not (is_flow and "betas" in network.noise):
        raise UsageError("--reversed-time is for a DiTTransformer2DModel with a flow scheduler (SiT): leave it out")
    if is_flow:
        return _flow(facts, path, network, reversed_time)
    prediction, schedule = read_schedule(facts, path)
    if schedule is None:
        raise UsageError(f"{path} is of an export of this package: import the exported folder as it is")
    return Noise(prediction, schedule, TrailingGrid(schedule=schedule))


def _flow(facts: dict[str, Any], path: Path, network: DiffusersNetwork, reversed_time: bool) -> Noise:
    for name in ("invert_sigmas", "stochastic_sampling"):
        if facts.get(name):
            raise UsageError(f"{path}: {name} = {facts[name]!r} is not supported")
    predicted = facts.get("prediction_type")
    if facts.get("_class_name") not in FLOW_SCHEDULERS and predicted != "flow_prediction":
        raise UsageError(f"{path}: use_flow_sigmas with prediction_type {predicted!r}, not 'flow_prediction'")
    scale = 1.0 if reversed_time else facts.get("num_train_timesteps", 1000) * network.flow_time_factor
    schedule = FlowSchedule(time_scale=scale, reversed=reversed_time)
    return Noise(PredictionType.V, schedule, FlowGrid(shift=_shift(facts, network.tokens)))


def _shift(facts: dict[str, Any], tokens: int) -> float:
    """The shift s of τ = s·r/(1 + (s − 1)·r); with dynamic shifting that of images of the network's size."""
    try:
        if not facts.get("use_dynamic_shifting"):
            return float(facts.get("shift", facts.get("flow_shift", 1.0)))
        low, high = facts.get("base_image_seq_len", 256), facts.get("max_image_seq_len", 4096)
        first, last = facts.get("base_shift", 0.5), facts.get("max_shift", 1.15)
        mu = float(first + (last - first) * (tokens - low) / (high - low))
        return mu if facts.get("time_shift_type") == "linear" else math.exp(mu)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UsageError(f"the shift of the scheduler cannot be computed: {error}") from error


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
    refused = [name for name in ("use_flow_sigmas",) if facts.get(name)]
    # ε says nothing of x where the SNR is 0.
    if facts.get("rescale_betas_zero_snr") and facts.get("prediction_type", "epsilon") == "epsilon":
        refused.append("rescale_betas_zero_snr")
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
        if (
            numbers
            and len(betas) == TIME_SCALE
            and all(map(partial(math.isclose, rel_tol=1e-12), betas, cosine_betas()))
        ):
            return None
        raise UsageError(f"{path}: trained_betas other than those of this package's exports cannot be imported")
    kind = facts.get("beta_schedule", defaults.kind)
    if kind not in _KINDS:
        raise UsageError(f"{path}: beta_schedule {kind!r} is not one of {', '.join(_KINDS)}")
    fields = {"kind": kind, "steps": facts.get("num_train_timesteps", defaults.steps)}
    fields["zero_terminal_snr"] = bool(facts.get("rescale_betas_zero_snr"))
    if kind != "squaredcos_cap_v2":
        fields["beta_start"] = facts.get("beta_start", defaults.beta_start)
        fields["beta_end"] = facts.get("beta_end", defaults.beta_end)
    try:
        return DiscreteSchedule(**fields)
    except ValueError as error:
        raise UsageError(f"{path} does not describe a schedule: {error}") from error
