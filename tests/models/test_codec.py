"""Latents and prompts are encoded as each family's stock pipeline encodes them."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

from progdistill.models.codec import LatentCodec, PromptEncoder
from progdistill.registry.pipeline import PipelineFacts
from tests.models.pipelines import PIPELINES

PROMPTS = ["a cat", "two dogs in the snow", "x" * 90]
TOKENS = {"sd": 77, "sdxl": 77, "sd3": 30, "flux": 30, "sana": 30, "dit": 0}


def facts_of(pipeline: Any, family: Any) -> PipelineFacts:
    config = pipeline.vae.config
    return PipelineFacts(
        class_name=type(pipeline).__name__,
        family=family,
        latent_scale=config.scaling_factor,
        latent_shift=getattr(config, "shift_factor", None) or 0.0,
        vae_factor=2,
        max_prompt_tokens=TOKENS[family],
    )


def stock_embeddings(pipeline: Any, family: str) -> list[torch.Tensor]:
    """What the pipeline's own `__call__` passes on: conditional, then unconditional."""
    options: dict[str, Any] = {"device": torch.device("cpu"), "num_images_per_prompt": 1}
    if family in ("sd3", "flux", "sana"):
        options["max_sequence_length"] = TOKENS[family]
    if family == "sd3":
        options |= {"prompt_2": None, "prompt_3": None}
    if family == "flux":
        return [*pipeline.encode_prompt(PROMPTS, prompt_2=None, **options)[:2]]
    if family == "sana":
        instruction = inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default
        options |= {"complex_human_instruction": instruction, "negative_prompt": ""}
    found = pipeline.encode_prompt(PROMPTS, do_classifier_free_guidance=True, **options)
    order = {"sd": (0, 1), "sana": (0, 1, 2, 3)}.get(family, (0, 2, 1, 3))
    return [found[index] for index in order]


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux", "sana"])
def test_prompts_become_what_the_stock_pipeline_makes_of_them(family: str, tmp_path: Path) -> None:
    pipeline = PIPELINES[family](tmp_path)
    encoder = PromptEncoder(tmp_path, facts_of(pipeline, family))
    found, empty = encoder.encode(PROMPTS, image_size=16), encoder.unconditional(image_size=16)
    wanted = stock_embeddings(pipeline, family)
    names = [name for name in found if name != "time_ids"]
    for index, name in enumerate(names):
        # Tensors of a mapped file are not aligned as torch aligns its own, which changes the order of sums.
        assert torch.allclose(found[name].float(), wanted[index].float(), atol=1e-5)
        if family != "flux":
            assert torch.allclose(empty[name].float(), wanted[len(names) + index][:1].float(), atol=1e-5)
    assert set(empty) == set(found) and all(len(column) == 1 for column in empty.values())
    if family == "sdxl":
        assert found["time_ids"].tolist() == [[16, 16, 0, 0, 16, 16]] * 3
        assert not empty["prompt_embeds"].any()  # force_zeros_for_empty_prompt
    assert encoder.too_long(PROMPTS) == [False, False, True]


@pytest.mark.parametrize("family", ["sd", "flux", "sana"])
def test_latents_are_scaled_as_the_network_sees_them(family: str, tmp_path: Path) -> None:
    pipeline = PIPELINES[family](tmp_path)
    codec = LatentCodec(tmp_path, facts_of(pipeline, family))
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = codec.encode(images)
    config, encoded = pipeline.vae.config, pipeline.vae.encode(images)
    if family == "sana":
        assert std is None
        assert torch.allclose(mean, encoded.latent * config.scaling_factor, atol=1e-6)
    else:
        shift = getattr(config, "shift_factor", None) or 0.0
        assert std is not None
        assert torch.allclose(mean, (encoded.latent_dist.mean - shift) * config.scaling_factor, atol=1e-6)
        assert torch.allclose(std, encoded.latent_dist.std * config.scaling_factor, rtol=1e-5)
        decoded = pipeline.vae.decode(mean / config.scaling_factor + shift).sample
        assert torch.allclose(codec.decode(mean), decoded, atol=1e-6)
