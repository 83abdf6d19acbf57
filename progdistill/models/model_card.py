"""The model card: the README.md of an exported model."""

from collections.abc import Sequence
from typing import NamedTuple

from progdistill.models.config import DenoiserConfig

_UNBOUND_STEPS = 64
"""Sampling steps shown for models that have no number of their own."""


class ModelFacts(NamedTuple):
    """The facts of a model card."""

    checkpoint_id: str
    kind: str
    dataset_name: str
    config: DenoiserConfig
    sampling_steps: int | None
    guidance_scale: float | None
    """The guidance scale to sample with, of a model that takes one as an input."""
    guidance_built_in: bool
    """Whether the export always samples with that scale; otherwise it stays an input."""
    lineage: Sequence[str]
    """One line per generation, from the first teacher to this model."""
    figures: Sequence[str]
    """One line per measured or recorded figure."""

    @property
    def shown_steps(self) -> int:
        """The number of sampling steps that the examples use."""
        return self.sampling_steps or _UNBOUND_STEPS


def render_card(facts: ModelFacts, usage: str) -> str:
    """Render the card as Markdown; `usage` is one of the sections below."""
    steps = f"{facts.sampling_steps} sampling steps" if facts.sampling_steps else "any number of steps"
    network = facts.config.network
    size = f"{network.image_size} × {network.image_size}"
    about = [
        f"checkpoint `{facts.checkpoint_id}`, kind: {facts.kind}, training data: {facts.dataset_name}",
        f"images of {size} pixels, {network.image_channels} channel(s), values from −1 to 1",
        f"class-conditional, {network.num_classes} classes" if network.num_classes else "unconditional",
        f"predicts {facts.config.prediction}; schedule α = cos(πt/2), σ = sin(πt/2)",
    ]
    if network.label_dropout:
        about.append(f"label {network.num_classes} means 'no class'")
    if facts.guidance_scale is not None:
        built_in = f"{facts.guidance_scale:g} is built in"
        as_input = f"is an input; the lowest it was trained with is {facts.guidance_scale:g}"
        about.append(f"guidance scale {built_in if facts.guidance_built_in else as_input} (1 is no guidance)")
    return f"""---
tags: [diffusion, progressive-distillation]
---
# Diffusion model ({facts.dataset_name}, {steps})

Written by progdistill, which distills diffusion models progressively after Salimans & Ho (ICLR 2022).

{_bullets(about)}

## Lineage

{_bullets(facts.lineage)}

## Figures

{_bullets(facts.figures or ["nothing has been measured"])}

## Use

{usage}

## Before you publish it

The license of the weights depends on the images they were trained on: this card does not know it.
"""


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def diffusers_usage(facts: ModelFacts) -> str:
    """A `DDIMPipeline`, or for class-conditional models the loop of one."""
    network, steps = facts.config.network, facts.shown_steps
    if not network.num_classes:
        return f"""Needs only diffusers:

```python
from diffusers import DDIMPipeline

pipeline = DDIMPipeline.from_pretrained(".")
images = pipeline(batch_size=4, num_inference_steps={steps}).images
```"""
    return f"""Needs only diffusers; its pipelines pass no class labels, so this is their loop:

```python
import torch
from diffusers import DDIMScheduler, UNet2DModel

unet = UNet2DModel.from_pretrained("unet")
scheduler = DDIMScheduler.from_pretrained("scheduler")
labels = torch.arange(4) % {network.num_classes}
x = torch.randn({_shape(facts)})
scheduler.set_timesteps({steps})
with torch.no_grad():
    for t in scheduler.timesteps:
        x = scheduler.step(unet(x, t, class_labels=labels).sample, t, x).prev_sample
images = ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
```"""


def onnx_usage(facts: ModelFacts, file_name: str) -> str:
    """The sampling loop around one denoising step."""
    network = facts.config.network
    extras = []
    if network.num_classes:
        extras.append(f'inputs["labels"] = np.arange(4) % {network.num_classes}')
    if network.guidance_input:
        extras.append(f'inputs["guidance_scale"] = np.full(4, {facts.guidance_scale or 1.0}, np.float32)')
    lines = "".join(f"{line}\n" for line in extras)
    return f"""`{file_name}` is one DDIM step from time t to t_next, in float32, for any batch size:

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file_name}")
steps = {facts.shown_steps}
z = np.random.default_rng(0).standard_normal(({_shape(facts)}), dtype=np.float32)
inputs = {{}}
{lines}for i in range(steps, 0, -1):
    times = {{"t": np.full(4, i / steps, np.float32), "t_next": np.full(4, (i - 1) / steps, np.float32)}}
    inputs |= {{"z": z, **times}}
    z = session.run(["z_next"], inputs)[0]
images = ((z + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
```"""


def safetensors_usage() -> str:
    """How to import the files into another store."""
    return """`weights.safetensors` and `manifest.json` are the checkpoint. To import it into another store:

    progdistill import . --name NAME

The id is the same; files that differ in a byte are refused."""


def _shape(facts: ModelFacts) -> str:
    network = facts.config.network
    return f"4, {network.image_channels}, {network.image_size}, {network.image_size}"
