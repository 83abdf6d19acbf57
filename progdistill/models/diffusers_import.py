"""Import of a pretrained diffusers model from its folder, without diffusers; pickles only on request."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from progdistill.errors import UsageError
from progdistill.models.config import DenoiserConfig
from progdistill.models.denoiser import mismatch, unallocated
from progdistill.models.diffusers_format import (
    config_from_diffusers,
    current_names,
    weights_from_diffusers,
    weights_to_diffusers,
)
from progdistill.models.diffusers_schedule import read_schedule
from progdistill.models_base import parse_json


class ForeignModel(NamedTuple):
    """A model in our format: float32 weights with the names of `Denoiser.state_dict()`."""

    config: DenoiserConfig
    weights: dict[str, Tensor]


def read_diffusers(
    folder: Path,
    *,
    scheduler: Path | None = None,
    label_dropout: bool = False,
    allow_pickle: bool = False,
    image_size: int | None = None,
) -> ForeignModel:
    """Read a pipeline folder (`unet/` and `scheduler/`, or both flat), or the folder of a U-Net alone.

    Args:
        folder: The local folder.
        scheduler: The scheduler_config.json to use instead of the folder's own.
        label_dropout: Whether the last class means 'no class'.
        allow_pickle: Read pickled weights too, restricted to plain tensors.
        image_size: Height and width of its images in pixels, used where the folder does not state it.

    Raises:
        UsageError: Something is missing, unsafe or has no counterpart here.
    """
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    _check_pipeline(folder)
    network = config_from_diffusers(_read_network_config(unet, image_size), label_dropout)
    noise_file = scheduler or _find_scheduler(folder)
    prediction, schedule = read_schedule(_read_json(noise_file), noise_file)
    config = DenoiserConfig(network=network, prediction=prediction, foreign_schedule=schedule)
    weights_file = _find_weights(unet, allow_pickle)
    found = current_names(_read(weights_file))
    # In the file's own names, and without memory for a network of any size.
    if problem := mismatch(found, weights_to_diffusers(unallocated(config).network.state_dict())):
        raise UsageError(f"{weights_file} does not fit {unet / 'config.json'}: {problem}")
    weights = {f"network.{name}": tensor.float() for name, tensor in weights_from_diffusers(found).items()}
    return ForeignModel(config, weights)


def _check_pipeline(folder: Path) -> None:
    """Refuse a pipeline with other models than a U-Net: an autoencoder means that the U-Net's images are latents."""
    for place in (folder, folder.parent):
        if not (place / "model_index.json").is_file():
            continue
        index = _read_json(place / "model_index.json")
        models = {
            name: part[1] for name, part in index.items() if isinstance(part, list) and part[1:] not in ([], [None])
        }
        if place != folder and folder.name not in models:
            continue
        other = [f"{name} ({kind})" for name, kind in models.items() if name not in ("unet", "scheduler")]
        if other:
            raise UsageError(
                f"{place / 'model_index.json'} describes a {index.get('_class_name')} with {', '.join(other)};"
                " only a pipeline of a U-Net of pixels and a scheduler can be imported"
            )


def _read_network_config(folder: Path, image_size: int | None) -> dict[str, Any]:
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
    size = facts.get("sample_size")
    if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:  # a tuple, as diffusers writes it
        size = size[0]
    if size is None:
        size = image_size
    if size is None:
        raise UsageError(f"{folder / 'config.json'} does not state its sample_size: give it with --image-size PIXELS")
    return facts | {"sample_size": size}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        facts = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(
            f"{path} does not exist; give the local folder of a diffusers pipeline or UNet2DModel"
        ) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON: {error}") from None
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
    """The weights of a file, without the prefix that DataParallel or torch.compile give every name."""
    weights = _load(path)
    for prefix in ("module.", "_orig_mod."):
        if weights and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _load(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise UsageError(f"{path} is damaged: {error}") from error
    try:
        unpickled = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling can fail in any way
        raise UsageError(f"{path} cannot be unpickled as plain tensors: {error}") from error
    if _is_state_dict(unpickled):
        return dict(unpickled)
    if not isinstance(unpickled, dict):
        raise UsageError(f"{path} holds a {type(unpickled).__name__}, no state dict: save the network's state_dict()")
    # A trainer's checkpoint: the state dict stands beside the optimizer's, the epoch and so on.
    inner = [value for value in unpickled.values() if _is_state_dict(value)]
    if len(inner) != 1:
        names = ", ".join(map(str, list(unpickled)[:10]))
        raise UsageError(
            f"{path} is a dictionary of {names}, with {len(inner) or 'no'} state dicts: save the one of the network"
            " alone, with torch.save or safetensors"
        )
    return dict(inner[0])


def _is_state_dict(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )
