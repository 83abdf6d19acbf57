"""Export to a folder that stock diffusers loads and samples as our DDIM sampler does."""

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from progdistill.diffusion.grid import AngleGrid
from progdistill.diffusion.guidance import w_from_guidance_scale
from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.samplers import ddim
from progdistill.errors import LostInvariantError, UsageError
from progdistill.models.config import TIME_SCALE, DenoiserConfig
from progdistill.models.denoiser import Denoiser
from progdistill.models.diffusers_format import diffusers_config, weights_to_diffusers
from progdistill.models.networks.unet import guidance_features, time_features
from progdistill.models.stock_steps import check_stock_steps

TOLERANCE = 1e-3
"""The largest difference from a sample of stock diffusers; pixels are in [−1, 1], latents mostly in [−4, 4]."""

_COMPARED_STEPS = 4
_PREDICTION_NAMES = {PredictionType.X: "sample", PredictionType.V: "v_prediction"}
_CONVERT = "distill it into one with prediction=v first (one stage is enough), or export safetensors or onnx"
_REFUSALS = {
    PredictionType.X_EPS: f"predicts x and ε together, but a stock scheduler takes one of them; {_CONVERT}",
    PredictionType.EPS: f"predicts ε, which cannot be sampled from at t = 1, where α = 0; {_CONVERT}",
}


def check_exportable(config: DenoiserConfig, guidance_scale: float | None) -> None:
    """Raise UsageError if stock diffusers cannot run this model."""
    check_stock_steps(config, 1)
    if refusal := _REFUSALS.get(config.prediction):
        raise UsageError(f"cannot export to diffusers: the model {refusal}")
    if not isinstance(config.grid, AngleGrid):
        raise UsageError(
            f"cannot export to diffusers: the model takes {config.grid}, and a DDIMPipeline of pixels even steps of the"
            " angle; distill it with distill.grid=angle, or export safetensors or onnx"
        )
    if guidance_scale is not None and not config.network.guidance_input:
        raise UsageError(
            f"--guidance-scale {guidance_scale:g} can be built only into a model with guidance as an input"
        )


def export_diffusers(denoiser: Denoiser, folder: Path, guidance_scale: float | None = None) -> float:
    """Write `unet/` and `scheduler/`, and for unconditional models the index that makes it a `DDIMPipeline`.

    A stock `UNet2DModel` has no guidance input: a guidance scale is built into the parameters.

    Args:
        denoiser: Left as it is.
        folder: Where to write.
        guidance_scale: Of a model with a guidance input, at least 1; None: 1, no guidance.

    Returns:
        The largest difference between a sample of stock diffusers and ours from the same noise.

    Raises:
        UsageError: Stock diffusers cannot run this model, or diffusers is not installed.
        LostInvariantError: That difference is larger than TOLERANCE.
    """
    check_exportable(denoiser.config, guidance_scale)
    diffusers, config = _diffusers(), denoiser.config
    network = diffusers_config(config.unet, config.out_channels)
    if config.foreign_schedule is not None:
        # The features of every time come from a table.
        network |= {"time_embedding_type": "learned", "num_train_timesteps": TIME_SCALE}
    with torch.device("meta"):
        twin = diffusers.UNet2DModel(**network)
    twin.load_state_dict(_network_weights(denoiser, w_from_guidance_scale(guidance_scale) or 0.0), assign=True)
    # "trailing" evaluates at k = 8192·i/N − 1, and with set_alpha_to_one the last step ends at t = 0.
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=TIME_SCALE,
        trained_betas=cosine_betas(),
        prediction_type=_PREDICTION_NAMES[config.prediction],
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        clip_sample=False,
    )
    if config.network.num_classes:
        twin.save_pretrained(folder / "unet")
        scheduler.save_pretrained(folder / "scheduler")
    else:
        diffusers.DDIMPipeline(unet=twin, scheduler=scheduler).save_pretrained(folder)
    return _compare(denoiser, twin.eval(), scheduler, w_from_guidance_scale(guidance_scale))


@torch.no_grad()
def _compare(denoiser: Denoiser, twin: Any, scheduler: Any, w: float | None) -> float:
    config = denoiser.config
    z = torch.randn(1, *config.network.sample_shape, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(1, dtype=torch.int64) if config.network.num_classes else None
    device = denoiser.boundary.log_snr_of_level.device
    columns = None if labels is None else {"label": labels.to(device)}
    bound = denoiser.bind(columns, w if config.network.guidance_input else None)
    ours = ddim(bound, z.to(device), config.grid.times(_COMPARED_STEPS)).cpu()
    scheduler.set_timesteps(_COMPARED_STEPS)
    for t in scheduler.timesteps:
        z = scheduler.step(twin(z, t, class_labels=labels).sample, t, z).prev_sample
    return require_same(ours, z)


def require_same(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of two samples; LostInvariantError if it is larger than TOLERANCE."""
    difference = float((ours - theirs).abs().max())
    if not difference <= TOLERANCE:
        raise LostInvariantError(
            f"stock diffusers draws another image than this model: they differ by {difference:.2g}, allowed are"
            f" {TOLERANCE:g}. Export safetensors or onnx, and report it"
        )
    return difference


def _diffusers() -> Any:
    try:
        return import_module("diffusers")
    except ModuleNotFoundError as error:
        raise UsageError("this export needs diffusers: pip install 'progdistill[diffusers]'") from error


def cosine_betas() -> list[float]:
    """β_k = 1 − ᾱ_k/ᾱ_{k−1} with ᾱ_k = cos²(π/2·(k + 1)/8192), in double precision.

    cos²b − cos²a = sin(a − b)·sin(a + b), which does not cancel where both are near 1.
    """
    step = math.pi / 2 / TIME_SCALE
    return [
        min(1.0, math.sin(step) * math.sin((2 * k + 1) * step) / math.sin((TIME_SCALE - k) * step) ** 2)
        for k in range(TIME_SCALE)
    ]


def _network_weights(denoiser: Denoiser, w: float) -> dict[str, Tensor]:
    state = {name: tensor.detach().cpu().float() for name, tensor in denoiser.network.state_dict().items()}
    projection = state.pop("time_embedding.guidance_proj.weight", None)
    if projection is not None:
        # linear_1 reads features(t) + P·features(w): with w fixed, the second term is a constant in its bias.
        constant = projection @ guidance_features(torch.tensor([w]), denoiser.config.unet)[0]
        bias = state["time_embedding.linear_1.bias"] + state["time_embedding.linear_1.weight"] @ constant
        state["time_embedding.linear_1.bias"] = bias
    weights = weights_to_diffusers(state)
    if denoiser.config.foreign_schedule is not None:
        weights["time_proj.weight"] = _time_table(denoiser)
    return weights


def _time_table(denoiser: Denoiser) -> Float[Tensor, "steps width"]:
    """The time features at t = (k + 1)/8192, for k = 0 … 8191."""
    device = denoiser.boundary.log_snr_of_level.device
    times = torch.arange(1, TIME_SCALE + 1, device=device) / TIME_SCALE
    return time_features(denoiser.boundary.time(times), denoiser.config.unet).cpu()
