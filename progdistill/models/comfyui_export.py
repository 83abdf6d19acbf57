"""Export of a UNet2DConditionModel with the names of its original code, which ComfyUI loads as a diffusion model."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.noise_schedules import DiscreteSchedule
from progdistill.errors import UsageError
from progdistill.models.config import DenoiserConfig, DiffusersConfig
from progdistill.models.denoiser import Denoiser
from progdistill.models.networks.unet_condition import guidance_features

_OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def check_comfyui(config: DenoiserConfig) -> DiffusersConfig:
    """The network's configuration; UsageError if ComfyUI has no original names for it or cannot sample it."""
    network = config.network
    if not isinstance(network, DiffusersConfig) or network.class_name != "UNet2DConditionModel":
        raise UsageError(
            "--format comfyui is for Stable Diffusion and SDXL; ComfyUI loads the others' --format diffusers"
        )
    if config.prediction not in (PredictionType.EPS, PredictionType.V):
        raise UsageError(f"ComfyUI samples no {config.prediction}-model: distill it with prediction=v")
    return network


def export_comfyui(denoiser: Denoiser, path: Path, guidance_scale: float | None) -> None:
    """Write one file for ComfyUI's folder `diffusion_models`.

    SDXL's v-prediction is recognized by the key `v_pred`, zero terminal SNR by `ztsnr`.

    Args:
        denoiser: On the CPU.
        path: The safetensors file.
        guidance_scale: Built into a model with guidance as an input, because ComfyUI has none.

    Raises:
        UsageError: ComfyUI has no names for such a network.
    """
    network = check_comfyui(denoiser.config)
    weights = {name: tensor.detach() for name, tensor in denoiser.network.state_dict().items()}
    projection = weights.pop("time_embedding.cond_proj.weight", None)
    if projection is not None:
        # linear_1 reads features(t) + P·features(w): with w fixed, the second term is a constant in its bias.
        w = torch.tensor([(guidance_scale or 1.0) - 1])
        constant = projection @ guidance_features(w, projection.shape[1])[0]
        linear = "time_embedding.linear_1"
        weights[f"{linear}.bias"] = weights[f"{linear}.bias"] + weights[f"{linear}.weight"] @ constant
    renamed = original_names(weights, network)
    if denoiser.config.prediction is PredictionType.V:
        renamed["v_pred"] = torch.tensor([])
    schedule = denoiser.config.foreign_schedule
    if isinstance(schedule, DiscreteSchedule) and schedule.zero_terminal_snr:
        renamed["ztsnr"] = torch.tensor([])
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(sorted(renamed.items())), path, metadata={"format": "pt"})


def original_names(weights: Mapping[str, Tensor], network: DiffusersConfig) -> dict[str, Tensor]:
    """The state dict of a UNet2DConditionModel with the names of Stable Diffusion's original code."""
    prefixes = dict(_prefixes(weights, network))
    renamed = {}
    for name, tensor in weights.items():
        found = next(prefix for prefix in prefixes if name.startswith(f"{prefix}."))
        inner = name[len(found) :]
        if ".resnets." in f".{found}.":
            part, _, kind = inner[1:].rpartition(".")
            inner = f".{_RESIDUAL[part]}.{kind}"
        renamed[prefixes[found] + inner] = tensor.contiguous()
    return renamed


def _prefixes(weights: Mapping[str, Tensor], network: DiffusersConfig) -> Iterator[tuple[str, str]]:
    """Prefixes of names here and there: levels are numbered through, with their resampling layers."""
    yield from _OUTSIDE.items()
    yield from (("mid_block.resnets.0", "middle_block.0"), ("mid_block.attentions.0", "middle_block.1"))
    yield "mid_block.resnets.1", "middle_block.2"
    levels = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("down_blocks."))
    count = network.arguments.get("layers_per_block", 2)
    if not isinstance(count, int):
        raise UsageError("--format comfyui needs the same number of layers in each block")
    for level in range(levels):
        for layer in range(count):
            place = f"input_blocks.{level * (count + 1) + layer + 1}"
            yield f"down_blocks.{level}.resnets.{layer}", f"{place}.0"
            yield f"down_blocks.{level}.attentions.{layer}", f"{place}.1"
        yield f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{(level + 1) * (count + 1)}.0.op"
        for layer in range(count + 1):
            place = f"output_blocks.{level * (count + 1) + layer}"
            yield f"up_blocks.{level}.resnets.{layer}", f"{place}.0"
            yield f"up_blocks.{level}.attentions.{layer}", f"{place}.1"
        attended = any(name.startswith(f"up_blocks.{level}.attentions.") for name in weights)
        last = f"output_blocks.{(level + 1) * (count + 1) - 1}"
        yield f"up_blocks.{level}.upsamplers.0.conv", f"{last}.{2 if attended else 1}.conv"
