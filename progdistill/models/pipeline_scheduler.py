"""The stock scheduler that samples a latent model as our DDIM does, and how its pipeline has to be called."""

from typing import Any

from progdistill.diffusion.grid import FlowGrid
from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.noise_schedules import DiscreteSchedule, FlowSchedule
from progdistill.errors import UsageError
from progdistill.models.config import DenoiserConfig, DiffusersConfig
from progdistill.models.networks.diffusers import diffusers_class
from progdistill.models.networks.registry import diffusers_network
from progdistill.models.stock_steps import check_stock_steps, needs_sigmas
from progdistill.registry.pipeline import PipelineFacts

_PREDICTION_NAMES = {PredictionType.EPS: "epsilon", PredictionType.X: "sample", PredictionType.V: "v_prediction"}


def stock_scheduler(config: DenoiserConfig, steps: int) -> Any:
    """The scheduler for a number of sampling steps.

    Raises:
        UsageError: No stock scheduler of its family makes these steps.
    """
    check_stock_steps(config, steps)
    match config.foreign_schedule, config.grid:
        case DiscreteSchedule() as schedule, _:
            return _discrete(config.prediction, schedule, steps)
        case FlowSchedule() as schedule, FlowGrid() as grid:
            return _flow(config, schedule, grid, steps)
    raise UsageError("networks with this noise have no stock pipeline: export safetensors or onnx")


def _discrete(prediction: PredictionType, schedule: DiscreteSchedule, steps: int) -> Any:
    settings = {
        "num_train_timesteps": schedule.steps,
        "beta_schedule": schedule.kind,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "rescale_betas_zero_snr": schedule.zero_terminal_snr,
        "prediction_type": _PREDICTION_NAMES[prediction],
        "timestep_spacing": "trailing",
        "steps_offset": 1,  # without effect on trailing steps; StableDiffusionPipeline warns of another
    }
    if schedule.steps % steps == 0:
        return diffusers_class("DDIMScheduler")(**settings, clip_sample=False, set_alpha_to_one=True)
    # DDIM's step goes to the index T // N below, which is one off where N does not divide T.
    return diffusers_class("EulerDiscreteScheduler")(**settings)


def _flow(config: DenoiserConfig, schedule: FlowSchedule, grid: FlowGrid, steps: int) -> Any:
    network = config.network
    assert isinstance(network, DiffusersConfig)
    ends_early = steps > 1 and network.class_name != "FluxTransformer2DModel" and not needs_sigmas(config, steps)
    # By default the last step of its other pipelines would begin next to 0 (diffusers 0.42).
    terminal = {"shift_terminal": grid.shift / (steps + grid.shift - 1)} if ends_early else {}
    return diffusers_class("FlowMatchEulerDiscreteScheduler")(
        num_train_timesteps=round(
            schedule.time_scale / diffusers_network(network.class_name)(network).flow_time_factor
        ),
        shift=grid.shift,
        **terminal,
    )


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
    if needs_sigmas(config, steps):
        arguments["sigmas"] = [i / steps for i in range(steps, 0, -1)]
    return arguments
