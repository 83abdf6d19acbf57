"""Conversion between our U-Net and diffusers' `UNet2DModel`, both ways, without importing diffusers."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from progdistill.errors import UsageError
from progdistill.models.config import LARGEST_IMAGE, UNetConfig
from progdistill.models_base import first_problem

_DOWN = {"residual": "ResnetDownsampleBlock2D", "convolution": "DownBlock2D"}
_UP = {"residual": "ResnetUpsampleBlock2D", "convolution": "UpBlock2D"}
_RESAMPLING_TYPE = {"residual": "resnet", "convolution": "conv"}
_PROJECTIONS = ("to_q", "to_k", "to_v")

# Names of attention layers before diffusers 0.15.
_FORMER_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}

# Settings without a counterpart here, with the value that means "not used".
_REQUIRED = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "class_embed_type": None,
}


def diffusers_config(config: UNetConfig, out_channels: int) -> dict[str, Any]:
    """The arguments of `UNet2DModel` for the same network without a guidance input."""
    attention = [config.has_attention(level) for level in range(len(config.channel_multipliers))]
    return {
        "sample_size": config.image_size,
        "in_channels": config.image_channels,
        "out_channels": out_channels,
        "time_embedding_dim": config.condition_width,
        "freq_shift": config.time_frequency_shift,
        "flip_sin_to_cos": config.time_features == "cos_sin",
        "down_block_types": tuple("AttnDownBlock2D" if a else _DOWN[config.resampling] for a in attention),
        "up_block_types": tuple("AttnUpBlock2D" if a else _UP[config.resampling] for a in reversed(attention)),
        "block_out_channels": config.level_channels,
        "layers_per_block": config.residual_blocks,
        "downsample_padding": config.downsample_padding,
        "downsample_type": _RESAMPLING_TYPE[config.resampling],
        "upsample_type": _RESAMPLING_TYPE[config.resampling],
        "dropout": config.dropout,
        "attention_head_dim": config.head_channels,
        "norm_num_groups": config.groups,
        "attn_norm_num_groups": config.groups if config.middle_attention == "normed" else None,
        "norm_eps": config.group_epsilon,
        "resnet_time_scale_shift": "default" if config.conditioning == "shift" else "scale_shift",
        "add_attention": config.middle_attention != "none",
        "num_class_embeds": config.label_rows or None,
    }


def config_from_diffusers(foreign: Mapping[str, Any], label_dropout: bool = False) -> UNetConfig:
    """Convert the configuration of a `UNet2DModel`.

    Args:
        foreign: The contents of its config.json.
        label_dropout: Whether the last of its classes means 'no class', which the file does not record.

    Raises:
        UsageError: A setting has no counterpart here, is missing, or has the wrong type.
    """
    try:
        return UNetConfig(**_fields(foreign, label_dropout))
    except KeyError as error:
        raise UsageError(f"this is not a configuration of a UNet2DModel: it has no {error}") from error
    except ValidationError as error:
        raise UsageError(f"this UNet2DModel has no counterpart here: {first_problem(error)}") from error
    except (TypeError, ValueError, IndexError, ArithmeticError) as error:
        raise UsageError(f"this UNet2DModel has no counterpart here: {error}") from error


def _fields(foreign: Mapping[str, Any], label_dropout: bool) -> dict[str, Any]:
    for name, wanted in _REQUIRED.items():
        _require(foreign.get(name, wanted) == wanted, name, foreign)
    widths = tuple(foreign.get("block_out_channels", (224, 448, 672, 896)))
    _require(all(type(width) is int and width > 0 for width in widths), "block_out_channels", foreign)
    _require(all(width % widths[0] == 0 for width in widths), "block_out_channels", foreign)
    size = foreign.get("sample_size")
    _require(type(size) is int and 0 < size <= LARGEST_IMAGE, "sample_size", foreign)
    _require(foreign.get("act_fn", "silu") in ("silu", "swish"), "act_fn", foreign)
    classes = foreign.get("num_class_embeds") or 0
    return {
        "image_channels": foreign.get("in_channels", 3),
        "image_size": foreign["sample_size"],
        "base_channels": widths[0],
        "channel_multipliers": tuple(width // widths[0] for width in widths),
        "residual_blocks": foreign.get("layers_per_block", 2),
        "attention_resolutions": tuple(_attention_resolutions(foreign)),
        "head_channels": foreign.get("attention_head_dim", 8),
        "num_classes": classes - int(label_dropout),
        "label_dropout": label_dropout,
        "dropout": foreign.get("dropout", 0.0),
        "groups": foreign.get("norm_num_groups", 32),
        "condition_channels": foreign.get("time_embedding_dim"),
        "resampling": _resampling(foreign),
        "conditioning": _conditioning(foreign),
        "middle_attention": _middle_attention(foreign),
        "group_epsilon": foreign.get("norm_eps", 1e-5),
        "time_features": "cos_sin" if foreign.get("flip_sin_to_cos", True) else "sin_cos",
        "time_frequency_shift": foreign.get("freq_shift", 0),
        "downsample_padding": foreign.get("downsample_padding", 1),
    }


def _require(holds: bool, name: str, foreign: Mapping[str, Any]) -> None:
    if not holds:
        raise UsageError(
            f"cannot import a UNet2DModel with {name}={foreign.get(name)!r}:"
            " it has no counterpart here (docs/models.md lists what can be imported)"
        )


def _attention_resolutions(foreign: Mapping[str, Any]) -> Iterator[int]:
    down, up = foreign["down_block_types"], foreign["up_block_types"]
    has = [block == "AttnDownBlock2D" for block in down]
    _require(has == [block == "AttnUpBlock2D" for block in reversed(up)], "up_block_types", foreign)
    return (foreign["sample_size"] >> level for level, attention in enumerate(has) if attention)


def _resampling(foreign: Mapping[str, Any]) -> str:
    """The kind used at all resolutions; the block at the lowest one does not resample."""
    types = {"AttnDownBlock2D": foreign.get("downsample_type", "conv")}
    types |= {"AttnUpBlock2D": foreign.get("upsample_type", "conv")}
    for kind, short in _RESAMPLING_TYPE.items():
        types |= {_DOWN[kind]: short, _UP[kind]: short}
    blocks = [*foreign["down_block_types"][:-1], *foreign["up_block_types"][:-1]]
    last = [foreign["down_block_types"][-1], foreign["up_block_types"][-1]]
    _require(all(block in types for block in [*blocks, *last]), "down_block_types", foreign)
    used = {types[block] for block in blocks} or {"conv"}
    _require(len(used) == 1 and used <= {"conv", "resnet"}, "downsample_type", foreign)
    return "residual" if used == {"resnet"} else "convolution"


def _conditioning(foreign: Mapping[str, Any]) -> str:
    kind = foreign.get("resnet_time_scale_shift", "default")
    _require(kind in ("default", "scale_shift"), "resnet_time_scale_shift", foreign)
    return "shift" if kind == "default" else "scale_shift"


def _middle_attention(foreign: Mapping[str, Any]) -> str:
    if not foreign.get("add_attention", True):
        return "none"
    groups = foreign.get("attn_norm_num_groups")
    if groups is None:
        return "normed" if _conditioning(foreign) == "shift" else "plain"
    _require(groups == foreign.get("norm_num_groups", 32), "attn_norm_num_groups", foreign)
    return "normed"


def weights_to_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of `UNet` to one of `UNet2DModel`; the projections of attention are split."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if ".to_qkv." in name:
            for projection, part in zip(_PROJECTIONS, tensor.chunk(3), strict=True):
                renamed[name.replace("to_qkv", projection)] = part.contiguous()
        else:
            renamed[name.replace(".to_out.", ".to_out.0.")] = tensor
    return renamed


def current_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights that have the names from before diffusers 0.15."""
    current: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        for former, now in _FORMER_NAMES.items():
            name = name.replace(former, now)
        current[name] = tensor
    return current


def weights_from_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `weights_to_diffusers`."""
    ours = {name.replace(".to_out.0.", ".to_out."): tensor for name, tensor in weights.items()}
    for name in [name for name in ours if ".to_q." in name]:
        parts = [ours.pop(name.replace("to_q", projection)) for projection in _PROJECTIONS]
        ours[name.replace("to_q", "to_qkv")] = torch.cat(parts)
    return ours
