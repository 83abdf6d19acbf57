"""The stock scheduler that samples a latent model as our DDIM does, and how its pipeline has to be called."""

from typing import Any

from progdistill.diffusion.grid import FlowGrid, TrailingGrid
from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.noise_schedules import DiscreteSchedule, FlowSchedule
from progdistill.errors import UsageError
from progdistill.models.config import DenoiserConfig, DiffusersConfig
from progdistill.models.networks.diffusers import diffusers_class
from progdistill.models.networks.registry import diffusers_network
from progdistill.registry.pipeline import Family, PipelineFacts

_PREDICTION_NAMES = {PredictionType.EPS: "epsilon", PredictionType.X: "sample", PredictionType.V: "v_prediction"}


def stock_scheduler(config: DenoiserConfig, family: Family, steps: int) -> Any:
    """The scheduler for a number of sampling steps.

    Raises:
        UsageError: No stock scheduler of its family makes these steps.
    """
    schedule, grid = config.foreign_schedule, config.grid
    match schedule, grid:
        case FlowSchedule(reversed=True), _:
            raise UsageError("no stock pipeline runs time from noise to data, as SiT: export safetensors or onnx")
        case DiscreteSchedule(), TrailingGrid() if grid.schedule == schedule:
            return _discrete(config, schedule, family, steps)
        case FlowSchedule(), FlowGrid() if config.prediction is PredictionType.V:
            return _flow(config, grid, family, steps)
        case FlowSchedule(), FlowGrid():
            raise UsageError(f"a flow pipeline takes no {config.prediction}-model: distill it with prediction=v")
    raise UsageError(
        f"this model takes {grid}, which no stock scheduler of its family does: distill from its teacher with"
        " distill.grid=auto, or export safetensors or onnx"
    )


def _discrete(config: DenoiserConfig, schedule: DiscreteSchedule, family: Family, steps: int) -> Any:
    if config.prediction not in _PREDICTION_NAMES:
        raise UsageError("a stock scheduler takes x, v or ε, not (x, ε): distill it into a model with prediction=v")
    settings = {
        "num_train_timesteps": schedule.steps,
        "beta_schedule": schedule.kind,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
        "prediction_type": _PREDICTION_NAMES[config.prediction],
        "timestep_spacing": "trailing",
    }
    if schedule.steps % steps == 0:
        return diffusers_class("DDIMScheduler")(**settings, clip_sample=False, set_alpha_to_one=True)
    if family == "dit":
        raise UsageError(
            f"no stock scheduler makes these {steps} steps in a DiTPipeline: choose a divisor of {schedule.steps}"
        )
    # DDIM's step goes to the index T // N below, which is one off where N does not divide T.
    return diffusers_class("EulerDiscreteScheduler")(**settings)


def _flow(config: DenoiserConfig, grid: FlowGrid, family: Family, steps: int) -> Any:
    if family == "dit" and needs_sigmas(config, family, steps):
        raise UsageError(f"a DiTPipeline cannot be told the {steps} steps of {grid}: distill to 2 or 1, or shift 1")
    settings: dict[str, Any] = {"shift": grid.shift}
    if steps > 1 and family != "flux" and not needs_sigmas(config, family, steps):
        # By default its last step would begin next to 0 (diffusers 0.42).
        settings["shift_terminal"] = grid.shift / (steps + grid.shift - 1)
    return diffusers_class("FlowMatchEulerDiscreteScheduler")(num_train_timesteps=_train_steps(config), **settings)


def _train_steps(config: DenoiserConfig) -> int:
    network, schedule = config.network, config.foreign_schedule
    assert isinstance(network, DiffusersConfig) and isinstance(schedule, FlowSchedule)
    return round(schedule.time_scale / diffusers_network(network.class_name)(network).flow_time_factor)


def needs_sigmas(config: DenoiserConfig, family: Family, steps: int) -> bool:
    """Whether the pipeline has to be told its steps with `sigmas=`: FluxPipeline takes them so by itself."""
    if not isinstance(config.grid, FlowGrid) or family == "flux":
        return False
    return steps > 2 and config.grid.shift != 1


def call_arguments(
    config: DenoiserConfig, facts: PipelineFacts, steps: int, guidance_scale: float | None
) -> dict[str, Any]:
    """What the stock pipeline is called with beside prompts or classes.

    Args:
        config: Of the model.
        facts: Of its pipeline.
        steps: Sampling steps.
        guidance_scale: Of a model that has it as an input; others are sampled without guidance, 1.
    """
    size = config.network.image_size * facts.vae_factor
    scale = (guidance_scale or 1.0) if config.network.guidance_input else 1.0
    arguments: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": scale}
    if facts.family != "dit":
        arguments |= {"height": size, "width": size}
    if facts.family == "sana":
        arguments["use_resolution_binning"] = False
    if needs_sigmas(config, facts.family, steps):
        arguments["sigmas"] = [i / steps for i in range(steps, 0, -1)]
    return arguments
