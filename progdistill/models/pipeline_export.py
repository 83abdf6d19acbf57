"""Export of a latent model as a pipeline's folder, which stock diffusers samples as our DDIM does."""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from progdistill.diffusion.guidance import w_from_guidance_scale
from progdistill.diffusion.samplers import ddim
from progdistill.models.config import DenoiserConfig
from progdistill.models.denoiser import Denoiser
from progdistill.models.diffusers_export import require_same
from progdistill.models.networks.diffusers import diffusers_class
from progdistill.models.networks.flux import packed, unpacked
from progdistill.models.pipeline_import import INDEX_FILE, KINDS
from progdistill.models.pipeline_scheduler import call_arguments, stock_scheduler
from progdistill.registry.pipeline import PipelineFacts

_NOT_COMPARED = ("text_encoder", "tokenizer", "safety_checker", "feature_extractor", "image_encoder")


def export_pipeline(denoiser: Denoiser, kept: Path, facts: PipelineFacts, out: Path, steps: int) -> None:
    """Write the folder: what was kept of the pipeline, the network, and the scheduler for `steps`.

    Args:
        denoiser: On the CPU.
        kept: The folder of `fetch_pipeline`.
        facts: Of the pipeline.
        out: Where to write.
        steps: Sampling steps.

    Raises:
        UsageError: No stock scheduler makes these steps.
    """
    scheduler = stock_scheduler(denoiser.config, steps)
    for path in sorted(kept.rglob("*")):
        if path.is_file() and path.relative_to(kept).parts[0] != "scheduler" and not path.name.startswith("."):
            place = out / path.relative_to(kept)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    component = KINDS[facts.class_name].component
    network: Any = denoiser.network
    network.save_pretrained(out / component)
    scheduler.save_pretrained(out / "scheduler")
    index = json.loads((kept / INDEX_FILE).read_text())
    index[component] = ["diffusers", type(network).__name__]
    index["scheduler"] = ["diffusers", type(scheduler).__name__]
    (out / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def load_for_comparison(folder: Path) -> Any:
    """The stock pipeline of a folder without encoders of text."""
    index = json.loads((folder / INDEX_FILE).read_text())
    absent = {name: None for name in index if name.startswith(_NOT_COMPARED)}
    with quiet():
        pipeline = diffusers_class(str(index["_class_name"])).from_pretrained(folder, **absent)
        pipeline.set_progress_bar_config(disable=True)
    return pipeline


def largest_difference(
    denoiser: Denoiser, pipeline: Any, facts: PipelineFacts, steps: int, guidance_scale: float | None
) -> float:
    """Draw one sample here and with the stock pipeline from the same latent; random embeddings stand for a prompt.

    Returns:
        The largest absolute difference of latents; of images in [0, 1] for a DiTPipeline, which gives no latents.

    Raises:
        LostInvariantError: It is larger than TOLERANCE.
    """
    config = denoiser.config
    call = call_arguments(config, facts, steps, guidance_scale)
    columns = _columns(config, facts)
    w = w_from_guidance_scale(call["guidance_scale"]) if config.network.guidance_input else None
    z = torch.randn(1, *config.network.sample_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), quiet():
        ours = ddim(denoiser.bind(columns, w), z, config.grid.times(steps))
        if facts.family == "dit":
            ours = (pipeline.vae.decode(ours / facts.latent_scale).sample / 2 + 0.5).clamp(0, 1)
        theirs = _stock_sample(pipeline, facts, columns, z, call)
    return require_same(ours, theirs)


def _columns(config: DenoiserConfig, facts: PipelineFacts) -> dict[str, Tensor]:
    random, size = torch.Generator().manual_seed(1), config.network.image_size * facts.vae_factor
    columns: dict[str, Tensor] = {}
    for column in config.network.columns:
        if column.name == "time_ids":  # As the stock pipeline computes them.
            columns[column.name] = torch.tensor([[size, size, 0.0, 0.0, size, size]])
        elif column.dtype == "int64":
            columns[column.name] = torch.zeros(1, *column.shape, dtype=torch.int64)
        elif column.dtype == "bool":
            columns[column.name] = torch.rand(1, *column.shape, generator=random) < 0.5
        else:
            columns[column.name] = torch.randn(1, *column.shape, generator=random)
    return columns


def _stock_sample(
    pipeline: Any, facts: PipelineFacts, columns: Mapping[str, Tensor], z: Tensor, call: Mapping[str, Any]
) -> Tensor:
    if facts.family == "dit":
        same = torch.Generator().manual_seed(0)
        images: Tensor = pipeline(columns["label"].tolist(), generator=same, output_type="pt", **call).images
        return images
    given = {name: column for name, column in columns.items() if name != "time_ids"}
    if "prompt_attention_mask" in given:
        given["prompt_attention_mask"] = given["prompt_attention_mask"].long()
    latents = packed(z) if facts.family == "flux" else z / _start(pipeline, call["num_inference_steps"])
    found: Tensor = pipeline(**given, latents=latents, output_type="latent", **call).images
    return unpacked(found, *z.shape[2:]) if facts.family == "flux" else found


def _start(pipeline: Any, steps: int) -> float:
    """The state of EulerDiscreteScheduler is x + s·ε: it takes noise times s, but z/α = √(1 + s²)·z is ours."""
    scheduler = pipeline.scheduler
    if type(scheduler).__name__ != "EulerDiscreteScheduler":
        return 1.0
    scheduler.set_timesteps(steps)
    highest = float(scheduler.sigmas[0])
    return float(scheduler.init_noise_sigma) / math.sqrt(1 + highest**2)


@contextmanager
def quiet() -> Iterator[None]:
    """Without diffusers' progress bars and warnings."""
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
