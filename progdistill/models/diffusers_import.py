"""Import of a pretrained diffusers model from its folder; pickles only on request."""

from pathlib import Path
from typing import Any

from progdistill.errors import UsageError
from progdistill.models.config import DenoiserConfig
from progdistill.models.denoiser import mismatch, unallocated
from progdistill.models.diffusers_files import kept_precision, read_json, read_weights
from progdistill.models.diffusers_format import (
    config_from_diffusers,
    current_names,
    weights_from_diffusers,
    weights_to_diffusers,
)
from progdistill.models.diffusers_schedule import read_schedule
from progdistill.models.pipeline_import import INDEX_FILE, KINDS, ForeignModel, read_pipeline


def read_diffusers(
    folder: Path,
    *,
    scheduler: Path | None = None,
    label_dropout: bool = False,
    image_size: int | None = None,
    default_image_size: int | None = None,
    reversed_time: bool = False,
    allow_pickle: bool = False,
) -> ForeignModel:
    """Read the folder of a pipeline, or that of a `UNet2DModel` alone.

    Args:
        folder: The local folder. A pipeline of a `UNet2DModel` has `unet/` and `scheduler/`, or both flat.
        scheduler: The scheduler_config.json to use instead of the folder's own.
        label_dropout: Whether the last class of a `UNet2DModel` means 'no class'.
        image_size: Height and width of its images in pixels; None: what the folder states.
        default_image_size: Used where the folder of a `UNet2DModel` does not state it.
        reversed_time: Whether the network's time runs from noise to data, as SiT's.
        allow_pickle: Read pickled weights too, restricted to plain tensors.

    Raises:
        UsageError: Something is missing, unsafe or has no counterpart here.
    """
    index = read_json(folder / INDEX_FILE) if (folder / INDEX_FILE).is_file() else {}
    if str(index.get("_class_name")) in KINDS:
        if label_dropout:
            raise UsageError("--label-dropout is for a UNet2DModel: leave it out")
        return read_pipeline(
            folder,
            index,
            scheduler=scheduler,
            image_size=image_size,
            reversed_time=reversed_time,
            allow_pickle=allow_pickle,
        )
    if reversed_time:
        raise UsageError("--reversed-time is for a DiTTransformer2DModel with a flow scheduler (SiT): leave it out")
    unet = folder / "unet" if (folder / "unet").is_dir() else folder
    _check_pipeline(folder)
    network = config_from_diffusers(_read_network_config(unet, image_size, default_image_size), label_dropout)
    noise_file = scheduler or _find_scheduler(folder)
    prediction, schedule = read_schedule(read_json(noise_file), noise_file)
    config = DenoiserConfig(network=network, prediction=prediction, foreign_schedule=schedule)
    weights, where = read_weights(unet, allow_pickle)
    found = current_names(weights)
    # In the file's own names, and without memory for a network of any size.
    if problem := mismatch(found, weights_to_diffusers(unallocated(config).network.state_dict())):
        raise UsageError(f"{where} does not fit {unet / 'config.json'}: {problem}")
    named = {f"network.{name}": kept_precision(tensor) for name, tensor in weights_from_diffusers(found).items()}
    return ForeignModel(config, named)


def _check_pipeline(folder: Path) -> None:
    """Refuse a pipeline with other models than a U-Net: an autoencoder means that the U-Net's images are latents."""
    for place in (folder, folder.parent):
        if not (place / INDEX_FILE).is_file():
            continue
        index = read_json(place / INDEX_FILE)
        models = {
            name: part[1] for name, part in index.items() if isinstance(part, list) and part[1:] not in ([], [None])
        }
        if place != folder and folder.name not in models:
            continue
        if place != folder and str(index.get("_class_name")) in KINDS:
            raise UsageError(f"{folder} is the network of a {index['_class_name']}: give the whole folder, {place}")
        other = [f"{name} ({kind})" for name, kind in models.items() if name not in ("unet", "scheduler")]
        if other:
            raise UsageError(
                f"{place / 'model_index.json'} describes a {index.get('_class_name')} with {', '.join(other)};"
                f" what can be imported are a U-Net of pixels with its scheduler, and {', '.join(KINDS)}"
            )


def _read_network_config(folder: Path, image_size: int | None, default_image_size: int | None) -> dict[str, Any]:
    facts = read_json(folder / "config.json")
    if facts.get("_class_name") != "UNet2DModel":
        raise UsageError(
            f"{folder / 'config.json'} describes a {facts.get('_class_name')}; without its pipeline, only a UNet2DModel"
            " can be imported: give the folder with model_index.json"
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
        size = image_size or default_image_size
    if size is None:
        raise UsageError(f"{folder / 'config.json'} does not state its sample_size: give it with --image-size PIXELS")
    if image_size not in (None, size):
        raise UsageError(f"--image-size {image_size}: {folder} is for {size}×{size} pixels; leave it out")
    return facts | {"sample_size": size}


def _find_scheduler(folder: Path) -> Path:
    for place in (folder / "scheduler", folder, folder.parent / "scheduler"):
        if (place / "scheduler_config.json").is_file():
            return place / "scheduler_config.json"
    raise UsageError(
        f"{folder} has no scheduler_config.json, which describes the noise its network was trained on;"
        " give the whole pipeline folder, or --scheduler FILE"
    )
