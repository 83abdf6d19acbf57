"""Export of a LoRA student as the file that people load onto its base."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from progdistill.errors import UsageError
from progdistill.models.config import DenoiserConfig
from progdistill.models.denoiser import Denoiser
from progdistill.models.networks.diffusers import diffusers_class
from progdistill.models.pipeline_export import export_pipeline, largest_difference, load_for_comparison, quiet
from progdistill.models.pipeline_import import KINDS
from progdistill.models.pipeline_scheduler import stock_scheduler
from progdistill.registry.pipeline import PipelineFacts


def lora_file_name(name: str, steps: int) -> str:
    """The name, which says how it is used, such as `teacher_4step_lora.safetensors`."""
    return f"{name}_{steps}step_lora.safetensors"


def export_lora(
    config: DenoiserConfig, adapter: Mapping[str, Tensor], facts: PipelineFacts, file: Path, steps: int
) -> None:
    """Write the adapter with the names that `load_lora_weights` and ComfyUI know, and `scheduler/` beside it.

    Loaders that know no alpha take it to be the rank, so alpha / rank is multiplied into B.

    Args:
        config: Of the student.
        adapter: As its checkpoint holds it.
        facts: Of its pipeline.
        file: Where to write.
        steps: Sampling steps.

    Raises:
        UsageError: It is no LoRA, its pipeline loads none, or no stock scheduler makes these steps.
    """
    if config.lora is None:
        raise UsageError(
            "this model has weights of its own: distill it as a LoRA with distill.lora.rank=64, or export diffusers"
        )
    if not hasattr(diffusers_class(facts.class_name), "load_lora_weights"):
        raise UsageError(f"a {facts.class_name} loads no LoRA files: export diffusers, which holds the adapter merged")
    scheduler = stock_scheduler(config, steps)
    component, scale = KINDS[facts.class_name].component, config.lora.alpha / config.lora.rank
    weights = {}
    for name, tensor in adapter.items():
        factor = scale if name.endswith(".lora_B.weight") else 1.0
        weights[f"{component}.{name.removeprefix('network.')}"] = (tensor * factor).contiguous()
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(sorted(weights.items())), file, metadata={"format": "pt"})
    scheduler.save_pretrained(file.parent / "scheduler")


def lora_difference(
    student: Denoiser, base: Denoiser, kept: Path, facts: PipelineFacts, file: Path, steps: int
) -> float:
    """As `largest_difference`, between the student and the stock pipeline of its base with the LoRA loaded.

    Args:
        student: With the adapter merged.
        base: What the adapter goes onto.
        kept: The folder of `fetch_pipeline`.
        facts: Of the pipeline.
        file: What `export_lora` wrote.
        steps: Sampling steps.
    """
    with tempfile.TemporaryDirectory() as folder:
        at_grid = Denoiser(base.config.model_copy(update={"grid": student.config.grid}), base.network)
        export_pipeline(at_grid, kept, facts, Path(folder), steps)
        pipeline: Any = load_for_comparison(Path(folder))
        with quiet():
            pipeline.load_lora_weights(file.parent, weight_name=file.name)
        pipeline.scheduler = stock_scheduler(student.config, steps)
        with torch.no_grad():
            return largest_difference(student, pipeline, facts, steps, None)
