"""Import of a network of EDM or EDM2 from its tensors; the architecture is read from their names and shapes.

The published files are pickles of whole programs, and are not read: NVIDIA's own code saves their tensors, with
`safetensors.torch.save_file(network.state_dict(), PATH)`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from progdistill.diffusion.grid import KarrasGrid
from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.noise_schedules import EDMSchedule
from progdistill.errors import UsageError
from progdistill.models.config import DenoiserConfig, EDMConfig
from progdistill.models.denoiser import mismatch, unallocated
from progdistill.models.diffusers_files import kept_precision
from progdistill.models.pipeline_import import ForeignModel

UNUSED = (
    *("resample_filter", "map_augment.weight"),
    *("logvar_fourier.freqs", "logvar_fourier.phases", "logvar_linear.weight"),
)
"""Ends of names without a part in sampling: constants, the input of augmentation, the uncertainty of the loss."""


def read_edm(path: Path, *, label_dropout: bool = False, allow_pickle: bool = False) -> ForeignModel:
    """Read a network of EDM or EDM2, with EDM's preconditioning, σ_data = 0.5 and noise levels 0.002 to 80.

    Args:
        path: A .safetensors or .npz file, or a state dict saved by torch, of tensors with their published names.
        label_dropout: Whether it was trained with labels dropped.
        allow_pickle: Read a state dict saved by torch, restricted to plain tensors.

    Raises:
        UsageError: The file is none of these, or its tensors are no such network.
    """
    found = _own_names(_read(path, allow_pickle))
    network = _config_of(found, label_dropout, path)
    config = DenoiserConfig(
        network=network, prediction=PredictionType.V, foreign_schedule=EDMSchedule(), grid=KarrasGrid()
    )
    weights = {f"network.{name}": kept_precision(tensor) for name, tensor in found.items()}
    if problem := mismatch(weights, unallocated(config).state_dict()):
        raise UsageError(f"{path} is not the {network.class_name} that its names suggest: {problem}")
    return ForeignModel(config, weights)


def _read(path: Path, allow_pickle: bool) -> dict[str, Tensor]:
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        except (ValueError, OSError) as error:
            raise UsageError(f"{path} is damaged, or holds more than arrays: {error}") from error
    if path.suffix == ".pkl":
        raise UsageError(
            f"{path} is a pickle of a program, which is not read: in NVIDIA's own code save its tensors with"
            " `safetensors.torch.save_file(network.state_dict(), 'network.safetensors')`, and import that"
        )
    if path.suffix != ".safetensors" and not allow_pickle:
        raise UsageError(
            f"{path} is a pickle, and unpickling can run any code; convert it to safetensors, or pass --allow-pickle"
            " to read it restricted to plain tensors"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UsageError(f"{path} is damaged: {error}") from error
    except Exception as error:  # unpickling can fail in any way
        raise UsageError(f"{path} cannot be read as plain tensors: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise UsageError(f"{path} is not a state dict: save `network.state_dict()`")
    return found


def _own_names(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without the prefix of the preconditioning, and without what sampling does not use."""
    short = {re.sub(r"^(model|unet)\.", "", name): tensor for name, tensor in found.items()}
    return {name: tensor for name, tensor in short.items() if not name.endswith(UNUSED)}


def _config_of(weights: Mapping[str, Tensor], label_dropout: bool, path: Path) -> EDMConfig:
    found_sizes = {int(size) for name in weights for size in re.findall(r"^enc\.(\d+)x\1_block0\.", name)}
    sizes = sorted(found_sizes, reverse=True)
    first = weights.get(f"enc.{sizes[0]}x{sizes[0]}_conv.weight") if sizes else None
    if first is None:
        raise UsageError(
            f"{path} is not a network of EDM or EDM2 as published: it has no encoder (enc.64x64_conv.weight, …); models"
            " of diffusers are imported from their folder"
        )
    architecture = _architecture_of(weights)
    last, attention = ("conv_res1", "attn_qkv") if architecture == "edm2" else ("conv1", "qkv")
    level_channels = [weights[f"enc.{size}x{size}_block0.{last}.weight"].shape[0] for size in sizes]
    base = _base_channels(weights, architecture, level_channels)
    blocks = {name.split(".")[1] for name in weights if name.startswith(f"enc.{sizes[0]}x{sizes[0]}_block")}
    fields: dict[str, Any] = {
        "architecture": architecture,
        "image_channels": first.shape[1] - (architecture == "edm2"),
        "image_size": sizes[0],
        "base_channels": base,
        "channel_multipliers": tuple(channels // base for channels in level_channels),
        "residual_blocks": len(blocks),
        "attention_resolutions": tuple(s for s in sizes if f"enc.{s}x{s}_block0.{attention}.weight" in weights),
        "num_classes": _classes_of(weights, architecture),
    }
    try:
        return EDMConfig(
            **fields,
            label_dropout=label_dropout and fields["num_classes"] > 0,
            parameters=sum(tensor.numel() for tensor in weights.values()),
        )
    except ValueError as error:
        raise UsageError(f"{path} does not describe a network: {error}") from error


def _architecture_of(weights: Mapping[str, Tensor]) -> str:
    if "out_gain" in weights:
        return "edm2"
    if "out_conv.weight" in weights:
        return "adm"
    return "ncsnpp" if "map_noise.freqs" in weights else "ddpmpp"


def _base_channels(weights: Mapping[str, Tensor], architecture: str, level_channels: list[int]) -> int:
    """The features of the time, of which ADM and DDPM++ have base_channels; EDM2's multipliers begin with 1."""
    if architecture == "edm2":
        return level_channels[0]
    return weights["map_layer0.weight"].shape[1] // (2 if architecture == "ncsnpp" else 1)


def _classes_of(weights: Mapping[str, Tensor], architecture: str) -> int:
    label = weights.get("emb_label.weight" if architecture == "edm2" else "map_label.weight")
    return 0 if label is None else label.shape[1]
