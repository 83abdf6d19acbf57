"""Import of a latent pipeline of diffusers: its network becomes a checkpoint, the rest of it is kept beside."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from pydantic import ValidationError
from torch import Tensor

from progdistill.errors import UsageError
from progdistill.models.config import DenoiserConfig, DiffusersConfig
from progdistill.models.denoiser import mismatch, unallocated
from progdistill.models.diffusers_files import component_files, kept_precision, read_json, read_weights
from progdistill.models.diffusers_schedule import read_noise
from progdistill.models.networks.registry import diffusers_network
from progdistill.models_base import first_problem
from progdistill.registry.pipeline import Family, PipelineFacts, publish_pipeline
from progdistill.store.base import Store

logger = logging.getLogger(__name__)

INDEX_FILE = "model_index.json"
CLIP_TOKENS, T5_TOKENS, FLUX_TOKENS, SCHNELL_TOKENS, SANA_TOKENS = 77, 256, 512, 256, 300
"""What stock pipelines pass where nothing else is asked for (`max_sequence_length`)."""


class Kind(NamedTuple):
    """A class of pipelines that can be imported."""

    family: Family
    network: str
    component: str


KINDS = {
    "StableDiffusionPipeline": Kind("sd", "UNet2DConditionModel", "unet"),
    "StableDiffusionXLPipeline": Kind("sdxl", "UNet2DConditionModel", "unet"),
    "DiTPipeline": Kind("dit", "DiTTransformer2DModel", "transformer"),
    "StableDiffusion3Pipeline": Kind("sd3", "SD3Transformer2DModel", "transformer"),
    "FluxPipeline": Kind("flux", "FluxTransformer2DModel", "transformer"),
    "SanaPipeline": Kind("sana", "SanaTransformer2DModel", "transformer"),
}
"""By the class of diffusers that model_index.json names."""


class ForeignPipeline(NamedTuple):
    """What is kept of a pipeline beside its network: files by their path inside the folder, and bytes for its index."""

    facts: PipelineFacts
    files: dict[str, Path]
    model_index: bytes


class ForeignModel(NamedTuple):
    """A model in our format: weights with the names of `Denoiser.state_dict()`, and its pipeline, if any."""

    config: DenoiserConfig
    weights: dict[str, Tensor]
    pipeline: ForeignPipeline | None = None


def read_pipeline(
    folder: Path,
    index: Mapping[str, Any],
    *,
    scheduler: Path | None = None,
    image_size: int | None = None,
    reversed_time: bool = False,
    allow_pickle: bool = False,
) -> ForeignModel:
    """Read the folder of a latent pipeline.

    Args:
        folder: The local folder.
        index: The contents of its model_index.json.
        scheduler: The scheduler_config.json to use instead of the folder's own.
        image_size: Height and width in pixels to distill it at; None: the network's own.
        reversed_time: Whether the network's time runs from noise to data, as SiT's.
        allow_pickle: Read pickled weights of the network too, restricted to plain tensors.

    Raises:
        UsageError: Something is missing, unsafe or not supported.
    """
    kind = _kind(folder, index)
    place = folder / kind.component
    facts = read_json(place / "config.json")
    if facts.get("_class_name") != kind.network:
        raise UsageError(
            f"{place / 'config.json'} describes a {facts.get('_class_name')}, but a {index['_class_name']}"
            f" has a {kind.network}"
        )
    noise = scheduler or _scheduler(folder)
    with _odd_values_explained(folder):
        pipeline = _pipeline(folder, index, kind, facts)
        config = _denoiser_config(kind, facts, pipeline.facts, noise, image_size, reversed_time)
    found, where = read_weights(place, allow_pickle)
    weights = {f"network.{name}": kept_precision(tensor) for name, tensor in found.items()}
    if problem := mismatch(weights, unallocated(config).state_dict()):
        raise UsageError(f"{where} does not fit {place / 'config.json'}: {problem}")
    return ForeignModel(config, weights, pipeline)


def describe_pipeline(folder: Path) -> tuple[DiffusersConfig, ForeignPipeline]:
    """The network of a pipeline's folder, without reading its weights, and the rest of the pipeline.

    Raises:
        UsageError: Something is missing or not supported.
    """
    index = read_json(folder / INDEX_FILE)
    kind = _kind(folder, index)
    facts = read_json(folder / kind.component / "config.json")
    with _odd_values_explained(folder):
        pipeline = _pipeline(folder, index, kind, facts)
        return diffusers_network(kind.network).describe(facts, None, pipeline.facts.max_prompt_tokens), pipeline


@contextmanager
def _odd_values_explained(folder: Path) -> Iterator[None]:
    """Turn what configurations raise whose values are of wrong types or sizes into a UsageError."""
    try:
        yield
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else error
        raise UsageError(f"a configuration in {folder} has a value that cannot be used: {reason}") from error


def keep_pipeline(store: Store, pipeline: ForeignPipeline) -> str:
    """Publish what a latent model needs beside its network; returns its id."""
    with TemporaryDirectory() as folder:
        index = Path(folder, INDEX_FILE)
        index.write_bytes(pipeline.model_index)
        return publish_pipeline(store, pipeline.facts, {**pipeline.files, INDEX_FILE: index}).id


def _kind(folder: Path, index: Mapping[str, Any]) -> Kind:
    name = str(index.get("_class_name"))
    if name not in KINDS:
        raise UsageError(f"{folder / INDEX_FILE} is of a {name}; what can be imported are {', '.join(KINDS)}")
    return KINDS[name]


def _scheduler(folder: Path) -> Path:
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        raise UsageError(f"{path} does not exist: give the scheduler of its training with --scheduler FILE")
    return path


def _denoiser_config(
    kind: Kind,
    facts: Mapping[str, Any],
    pipeline: PipelineFacts,
    scheduler: Path,
    image_size: int | None,
    reversed_time: bool,
) -> DenoiserConfig:
    network_class = diffusers_network(kind.network)
    size = None if image_size is None else _latent_size(image_size, pipeline.vae_factor)
    network = network_class.describe(facts, size, pipeline.max_prompt_tokens)
    noise = read_noise(read_json(scheduler), scheduler, network_class(network), reversed_time)
    return DenoiserConfig(
        network=network, prediction=noise.prediction, foreign_schedule=noise.schedule, grid=noise.grid
    )


def _latent_size(image_size: int, factor: int) -> int:
    if image_size % factor:
        raise UsageError(f"--image-size {image_size}: give a multiple of {factor}, the pixels of a latent")
    return image_size // factor


def _pipeline(folder: Path, index: Mapping[str, Any], kind: Kind, network: Mapping[str, Any]) -> ForeignPipeline:
    files: dict[str, Path] = {}
    kept, missing = dict(index), []
    for name, value in index.items():
        if not isinstance(value, list) or value[:1] in ([None], []) or name == kind.component:
            continue
        if (folder / name).is_dir():
            files |= {f"{name}/{file}": path for file, path in component_files(folder / name).items()}
        else:
            kept[name] = [None, None]
            missing.append(name)
    if "vae/config.json" not in files:
        raise UsageError(f"{folder} has no vae, without which its latents are not images: download the whole folder")
    if "safety_checker" in missing:
        kept["requires_safety_checker"] = False
    if missing:
        logger.warning("note: %s has no %s; imported without", folder, ", ".join(missing))
    facts = _facts(folder, str(index["_class_name"]), kind, network)
    return ForeignPipeline(facts, files, (json.dumps(kept, indent=2, sort_keys=True) + "\n").encode())


def _facts(folder: Path, class_name: str, kind: Kind, network: Mapping[str, Any]) -> PipelineFacts:
    path = folder / "vae" / "config.json"
    vae = read_json(path)
    match vae.get("_class_name"):
        case "AutoencoderKL":
            levels, scale = vae.get("block_out_channels", (64,)), vae.get("scaling_factor", 0.18215)
        case "AutoencoderDC":
            levels, scale = vae.get("encoder_block_out_channels", range(6)), vae.get("scaling_factor", 1.0)
        case other:
            raise UsageError(f"{path} describes a {other}; supported are AutoencoderKL and AutoencoderDC")
    if vae.get("latents_mean") is not None:
        raise UsageError(f"{path} has latents_mean: latents that are normalized by channel are not supported")
    return PipelineFacts(
        class_name=class_name,
        family=kind.family,
        latent_scale=scale,
        latent_shift=vae.get("shift_factor") or 0.0,
        vae_factor=2 ** (len(levels) - 1),
        max_prompt_tokens=_max_prompt_tokens(folder, kind.family, network),
    )


def _max_prompt_tokens(folder: Path, family: Family, network: Mapping[str, Any]) -> int:
    match family:
        case "dit":
            return 0
        case "sd3":
            return T5_TOKENS
        case "sana":
            return SANA_TOKENS
        case "flux":
            return FLUX_TOKENS if network.get("guidance_embeds") else SCHNELL_TOKENS
        case _:
            path = folder / "tokenizer" / "tokenizer_config.json"
            return int(read_json(path).get("model_max_length", CLIP_TOKENS)) if path.is_file() else CLIP_TOKENS
