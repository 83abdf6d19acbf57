"""Which sampling steps of a model the stock schedulers of its export make. No torch: plans ask, too."""

from progdistill.diffusion.grid import AngleGrid, FlowGrid, TrailingGrid
from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.noise_schedules import DiscreteSchedule, FlowSchedule
from progdistill.errors import UsageError
from progdistill.models.config import DenoiserConfig, DiffusersConfig, UNetConfig

_OTHERWISE = "export safetensors or onnx"


def check_stock_steps(config: DenoiserConfig, steps: int) -> None:
    """Raise UsageError, with what can be done, unless a stock scheduler makes these steps in the stock pipeline."""
    schedule, grid = config.foreign_schedule, config.grid
    if not isinstance(config.network, DiffusersConfig):
        return _check_pixels(config)
    match schedule:
        case FlowSchedule(reversed=True):
            raise UsageError(f"no stock pipeline runs time from noise to data, as SiT: {_OTHERWISE}")
        case FlowSchedule() if config.prediction is not PredictionType.V:
            raise UsageError(f"a flow pipeline takes no {config.prediction}-model: distill it with prediction=v")
        case FlowSchedule() if isinstance(grid, FlowGrid):
            if _is_dit(config) and needs_sigmas(config, steps):
                raise UsageError(f"a DiTPipeline cannot be given the {steps} steps of {grid}: distill to 2 steps or 1")
        case DiscreteSchedule() if config.prediction.output_multiplier > 1:
            raise UsageError("a stock scheduler takes x, v or ε, not (x, ε): distill it with prediction=v")
        case DiscreteSchedule() if isinstance(grid, TrailingGrid) and grid.schedule == schedule:
            if _is_dit(config) and schedule.steps % steps:
                raise UsageError(
                    f"no stock scheduler makes {steps} steps in a DiTPipeline: choose a divisor of {schedule.steps}"
                )
        case _:
            raise UsageError(
                f"no stock scheduler of this model's family takes {grid}: distill it with distill.grid=auto from its"
                f" teacher, or {_OTHERWISE}"
            )


def _check_pixels(config: DenoiserConfig) -> None:
    """The export of our own U-Net has a scheduler of even angles."""
    if not isinstance(config.network, UNetConfig):
        raise UsageError(f"diffusers has no class for this {config.network.class_name} network: {_OTHERWISE}")
    if not isinstance(config.grid, AngleGrid):
        raise UsageError(
            f"the scheduler of its export to diffusers takes even steps of the angle, not {config.grid}: distill its"
            f" teacher with distill.grid=angle, or {_OTHERWISE}"
        )


def needs_sigmas(config: DenoiserConfig, steps: int) -> bool:
    """Whether the pipeline needs its steps with `sigmas=`: FluxPipeline takes them so by itself."""
    if not isinstance(config.grid, FlowGrid) or _class_of(config) == "FluxTransformer2DModel":
        return False
    return steps > 2 and config.grid.shift != 1


def _is_dit(config: DenoiserConfig) -> bool:
    return _class_of(config) == "DiTTransformer2DModel"


def _class_of(config: DenoiserConfig) -> str:
    return config.network.class_name if isinstance(config.network, DiffusersConfig) else ""
