"""Files in a folder of diffusers: JSON, and weights that are whole, in shards, or of a variant such as fp16."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from progdistill.errors import UsageError
from progdistill.models_base import parse_json

_STEMS = ("diffusion_pytorch_model", "model")
_VARIANTS = ("", "fp16", "bf16", "fp32")
_KEPT = (".json", ".txt", ".model", ".jinja")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; UsageError if there is none."""
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


def weights_files(folder: Path) -> dict[str, Path]:
    """The safetensors files of a model, by the names that a loader without a variant asks for.

    Several shards come with their index. Empty where there are no safetensors files.

    Raises:
        UsageError: A shard is missing, or it is not clear which of several files is meant.
    """
    for stem in _STEMS:
        for variant in _VARIANTS:
            suffix = f".{variant}" if variant else ""
            whole, index = folder / f"{stem}{suffix}.safetensors", folder / f"{stem}.safetensors.index{suffix}.json"
            if whole.is_file():
                return {f"{stem}.safetensors": whole}
            if index.is_file():
                return {f"{stem}.safetensors.index.json": index, **{path.name: path for path in _shards(index)}}
    found = sorted(folder.glob("*.safetensors"))
    if len(found) > 1:
        raise UsageError(f"{folder} has several weights files: {', '.join(path.name for path in found)}")
    return {f"{_STEMS[0]}.safetensors": path for path in found}


def _shards(index: Path) -> Iterator[Path]:
    for name in sorted(set(read_json(index).get("weight_map", {}).values())):
        path = index.with_name(Path(name).name)
        if not path.is_file():
            raise UsageError(f"{path} is missing, which {index} names: download the whole folder")
        yield path


def read_weights(folder: Path, allow_pickle: bool) -> tuple[dict[str, Tensor], Path]:
    """The weights of a model, and the file that messages name.

    The prefix that DataParallel or torch.compile give every name is removed.

    Raises:
        UsageError: There are none, they are damaged, or a pickle, without consent.
    """
    files = [path for path in weights_files(folder).values() if path.suffix == ".safetensors"]
    files = files or [_pickle_in(folder, allow_pickle)]
    weights: dict[str, Tensor] = {}
    for path in files:
        weights |= _load(path)
    for prefix in ("module.", "_orig_mod."):
        if weights and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights, files[0]


def kept_precision(tensor: Tensor) -> Tensor:
    """Weights in half precision as they are, which takes half the room; all others in float32."""
    return tensor if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.float()


def _pickle_in(folder: Path, allow_pickle: bool) -> Path:
    pickled = sorted(folder.glob("*.bin"))
    if not pickled:
        raise UsageError(f"{folder} has no *.safetensors weights")
    if not allow_pickle:
        raise UsageError(
            f"{pickled[0]} is a pickle, and unpickling can run any code;"
            " convert it to safetensors, or pass --allow-pickle to read it restricted to plain tensors"
        )
    return pickled[0]


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


def component_files(folder: Path) -> dict[str, Path]:
    """The files of a component of a pipeline by name: its settings, and its weights without a variant.

    Raises:
        UsageError: It has pickled weights only.
    """
    weights = weights_files(folder)
    if not weights and (pickled := sorted(folder.glob("*.bin"))):
        raise UsageError(
            f"{pickled[0]} is a pickle: convert the pipeline first, with"
            " `DiffusionPipeline.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)`"
        )
    settings = {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.suffix in _KEPT and ".index." not in path.name and not path.name.startswith(".")
    }
    return settings | weights
