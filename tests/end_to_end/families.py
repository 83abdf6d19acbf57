"""Small pipelines of each family, trained until they are no noise, and a comparison of students with stock."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from progdistill.data.loader import normalized
from progdistill.diffusion.guidance import w_from_guidance_scale
from progdistill.diffusion.samplers import ddim
from progdistill.models.codec import LatentCodec, PromptEncoder
from progdistill.models.conditioning import Conditioning
from progdistill.models.load import load_denoiser
from progdistill.models.networks.flux import packed, unpacked
from progdistill.models.pipeline_import import describe_pipeline
from progdistill.models.pipeline_scheduler import call_arguments
from progdistill.registry.pipeline import fetch_pipeline, load_pipeline
from progdistill.registry.resolve import resolve_reference
from progdistill.store.base import Store
from tests.models.pipelines import PIPELINES
from tests.models.test_pipelines import STOCK

COLORS = {"red": (220, 30, 40), "green": (30, 180, 60), "blue": (40, 60, 210), "gray": (128, 128, 128)}
"""Classes, and prompts: plain images of these colors."""
PROMPTS = [f"a {name} wall" for name in COLORS]


def image_size(family: str) -> int:
    """Height and width of a family's images in pixels."""
    return 32 if family == "sana" else 16


def make_images(folder: Path, size: int, each: int = 4) -> None:
    """Images of plain colors with captions beside them; every class is a folder."""
    random = np.random.default_rng(0)
    for name, color in COLORS.items():
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = np.array(color) + random.normal(0, 6, (size, size, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")
            (folder / name / f"{number}.txt").write_text(f"a {name} wall\n")


def make_pipeline(family: str, folder: Path, updates: int, **settings: Any) -> Any:
    """Make a pipeline as diffusers does, train its network on the colors, and save it.

    It learns what its family learns: ε at an index of its betas, or ε − x at a time of its flow.
    """
    if family == "dit":
        settings["num_classes"] = len(COLORS)
    pipeline = PIPELINES[family](folder, **settings)
    x, rows = _examples(family, folder)
    name = "unet" if hasattr(pipeline, "unet") else "transformer"
    network = getattr(pipeline, name).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    random, losses = torch.Generator().manual_seed(0), []
    for _ in range(updates):
        chosen = torch.randint(len(x), (8,), generator=random)
        loss = _loss(pipeline, family, x[chosen], {key: column[chosen] for key, column in rows.items()}, random)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10]), (family, losses[:10], losses[-10:])
    network.eval()
    pipeline.save_pretrained(folder)
    return pipeline


def _examples(family: str, folder: Path) -> tuple[Tensor, Conditioning]:
    """Latents of the colors, and what belongs to them."""
    facts, size = describe_pipeline(folder)[1].facts, image_size(family)
    pixels = torch.tensor(list(COLORS.values()), dtype=torch.uint8)[:, :, None, None].expand(-1, -1, size, size)
    x = LatentCodec(folder, facts).encode(normalized(pixels)).mean
    if family == "dit":
        return x, {"label": torch.arange(len(COLORS))}
    return x, PromptEncoder(folder, facts).encode(PROMPTS, size)


def _loss(pipeline: Any, family: str, x: Tensor, rows: Mapping[str, Tensor], random: torch.Generator) -> Tensor:
    noise = torch.randn(x.shape, generator=random)
    if family in ("sd", "sdxl", "dit"):
        index = torch.randint(1000, (len(x),), generator=random)
        alpha = pipeline.scheduler.alphas_cumprod[index, None, None, None]
        z, time, wanted = alpha.sqrt() * x + (1 - alpha).sqrt() * noise, index, noise
    else:
        tau = torch.rand(len(x), 1, 1, 1, generator=random)
        z, time, wanted = (1 - tau) * x + tau * noise, 1000 * tau.flatten(), noise - x
    found = STOCK[family](pipeline, z, time, dict(rows))
    return (found - wanted).square().mean()


def differences(store: Store, reference: str, folder: Path, guidance_scale: float | None = None) -> list[float]:
    """Draw each prompt or class with a student, and with the whole pipeline that was exported to a folder.

    Returns:
        The largest difference of each sample: of images in [0, 1] for a DiTPipeline, of latents for the others.
    """
    manifest = resolve_reference(store, reference)
    denoiser = load_denoiser(store, manifest)
    config, steps = denoiser.config, manifest.identity.sampling_steps
    assert config.pipeline is not None and steps is not None
    kept, facts = fetch_pipeline(store, config.pipeline), load_pipeline(store, config.pipeline).facts
    call = call_arguments(config, facts, steps, guidance_scale)
    w = w_from_guidance_scale(call["guidance_scale"]) if config.network.guidance_input else None
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    z = torch.randn(len(COLORS), *config.network.sample_shape, generator=torch.Generator().manual_seed(0))
    if facts.family == "dit":
        labels = torch.arange(len(COLORS))
        with torch.no_grad():
            ours = LatentCodec(kept, facts).decode(ddim(denoiser.bind({"label": labels}), z, config.grid.times(steps)))
        same = torch.Generator().manual_seed(0)
        stock = pipeline(labels.tolist(), generator=same, output_type="np", **call).images
        theirs = torch.from_numpy(stock).permute(0, 3, 1, 2)
        ours = (ours / 2 + 0.5).clamp(0, 1)
    else:
        rows = PromptEncoder(kept, facts).encode(PROMPTS, config.network.image_size * facts.vae_factor)
        with torch.no_grad():
            ours = ddim(denoiser.bind(rows, w), z, config.grid.times(steps))
        latents = packed(z) if facts.family == "flux" else z
        theirs = pipeline(PROMPTS, latents=latents, output_type="latent", **call).images
        theirs = unpacked(theirs, *z.shape[2:]) if facts.family == "flux" else theirs
    return (ours - theirs).abs().flatten(1).amax(1).tolist()  # type: ignore[no-any-return]
