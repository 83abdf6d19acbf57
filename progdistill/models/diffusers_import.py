"""Import of a pretrained diffusers model from its folder, without diffusers; pickles only on request."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from progdistill.errors import UsageError
from progdistill.models.config import DenoiserConfig
from progdistill.models.denoiser import empty_denoiser, mismatch
from progdistill.models.diffusers_format import config_from_diffusers, weights_from_diffusers
from progdistill.models.diffusers_schedule import read_schedule


class ForeignModel(NamedTuple):
    """A model in our format: float32 weights with the names of `Denoiser.state_dict()`."""

    config: DenoiserConfig
    weights: dict[str, Tensor]


def read_diffusers(
    folder: Path, *, scheduler: Path | None = None, label_dropout: bool = False, allow_pickle: bool = False
) -> ForeignModel:
    """Read a pipeline folder (`unet/` and `scheduler/`, or both flat), or the folder of a U-Net alone.

    Args:
        folder: The local folder.
        scheduler: The scheduler_config.json to use instead of the folder's own.
        label_dropout: Whether the last class means 'no class'.
        allow_pickle: Read pickled weights too, restricted to plain tensors.

    Raises:
        UsageError: Something is missing, unsafe or has no counterpart here.
    """
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    network = config_from_diffusers(_read_network_config(unet), label_dropout)
    noise_file = scheduler or _find_scheduler(folder)
    prediction, schedule = read_schedule(_read_json(noise_file), noise_file)
    config = DenoiserConfig(network=network, prediction=prediction, foreign_schedule=schedule)
    weights_file = _find_weights(unet, allow_pickle)
    found = weights_from_diffusers(_read(weights_file))
    weights = {f"network.{name}": tensor.float() for name, tensor in found.items()}
    if problem := mismatch(weights, empty_denoiser(config).state_dict()):
        raise UsageError(f"{weights_file} does not fit {unet / 'config.json'}: {problem}")
    return ForeignModel(config, weights)


def _read_network_config(folder: Path) -> dict[str, Any]:
    facts = _read_json(folder / "config.json")
    if facts.get("_class_name") != "UNet2DModel":
        raise UsageError(
            f"{folder / 'config.json'} describes a {facts.get('_class_name')}; only a UNet2DModel can be imported"
        )
    if facts.get("out_channels", 3) != facts.get("in_channels", 3):
        raise UsageError(
            f"{folder / 'config.json'}: {facts.get('out_channels')} output channels for"
            f" {facts.get('in_channels')} image channels; models with a learned variance cannot be imported"
        )
    return facts


def _read_json(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{path} does not exist; give the local folder of a diffusers pipeline or UNet2DModel"
        ) from None
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(facts, dict):
        raise UsageError(f"{path} is not a JSON object")
    return facts


def _find_scheduler(folder: Path) -> Path:
    for place in (folder / "scheduler", folder, folder.parent / "scheduler"):
        if (place / "scheduler_config.json").is_file():
            return place / "scheduler_config.json"
    raise UsageError(
        f"{folder} has no scheduler_config.json, which describes the noise its network was trained on;"
        " give the whole pipeline folder, or --scheduler FILE"
    )


def _find_weights(folder: Path, allow_pickle: bool) -> Path:
    for pattern in ("diffusion_pytorch_model.safetensors", "*.safetensors"):
        if found := sorted(folder.glob(pattern)):
            if len(found) > 1:
                raise UsageError(f"{folder} has several weights files: {', '.join(p.name for p in found)}")
            return found[0]
    pickled = sorted(folder.glob("*.bin"))
    if not pickled:
        raise UsageError(f"{folder} has no *.safetensors weights")
    if not allow_pickle:
        raise UsageError(
            f"{pickled[0]} is a pickle, and unpickling can run any code;"
            " convert it to safetensors, or pass --allow-pickle to read it restricted to plain tensors"
        )
    return pickled[0]


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UsageError(f"{path} is damaged: {error}") from error
    try:
        weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling can fail in any way
        raise UsageError(f"{path} cannot be unpickled as plain tensors: {error}") from error
    return weights
