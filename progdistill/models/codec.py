"""What stands around a latent model: images to latents and back, and prompts to what the network is conditioned on.

Both are the pipeline's own components, called as its stock pipeline calls them. They are needed before and after
training, never during it.
"""

import inspect
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from progdistill.errors import UsageError
from progdistill.models.conditioning import Conditioning
from progdistill.registry.pipeline import PipelineFacts

logger = logging.getLogger(__name__)

Images = Float[Tensor, "batch 3 height width"]
Latents = Float[Tensor, "batch channels latent_height latent_width"]

_NETWORKS: Final = ("unet", "transformer")
_IMAGE_PARTS: Final = ("vae", "safety_checker", "feature_extractor", "image_encoder")


class LatentMoments(NamedTuple):
    """What an encoder gives: the latents' mean, and their standard deviation where it gives one."""

    mean: Latents
    std: Latents | None


class LatentCodec:
    """A pipeline's VAE, in float32: some overflow in half precision.

    Latents are scaled as the network sees them: (latent − latent_shift)·latent_scale.
    """

    def __init__(self, folder: Path, facts: PipelineFacts, device: torch.device | str = "cpu") -> None:
        """Load it from a pipeline's folder (`fetch_pipeline`).

        Raises:
            UsageError: The folder has no VAE, or diffusers is not installed.
        """
        if not (folder / "vae").is_dir():
            raise UsageError(f"{folder} has no VAE: import a pipeline folder that has one")
        config = json.loads((folder / "vae" / "config.json").read_text())
        kind = getattr(_library("diffusers"), config["_class_name"], None)
        if kind is None:
            raise UsageError(f"the installed diffusers has no {config['_class_name']}: upgrade it")
        vae = kind.from_pretrained(folder / "vae", dtype=torch.float32, variant=_variant(folder / "vae"))
        self._vae = vae.to(device).eval().requires_grad_(False)
        self._facts, self._device = facts, torch.device(device)

    @torch.no_grad()
    def encode(self, images: Images) -> LatentMoments:
        """Encode images in [−1, 1], float32, with 3 channels, or one, which is repeated."""
        pixels = images.to(self._device)
        encoded = self._vae.encode(pixels.expand(-1, 3, -1, -1).contiguous() if pixels.shape[1] == 1 else pixels)
        if hasattr(encoded, "latent_dist"):
            found = encoded.latent_dist
            return LatentMoments(self._scaled(found.mean), found.std * self._facts.latent_scale)
        latents = encoded.latent if hasattr(encoded, "latent") else encoded.latents
        return LatentMoments(self._scaled(latents), None)

    @torch.no_grad()
    def decode(self, latents: Latents) -> Images:
        """Decode latents as the network makes them, float32: images, about [−1, 1]; clip them."""
        unscaled = latents.to(self._device, torch.float32) / self._facts.latent_scale + self._facts.latent_shift
        images: Tensor = self._vae.decode(unscaled, return_dict=False)[0]
        return images

    def _scaled(self, latents: Tensor) -> Tensor:
        return (latents - self._facts.latent_shift) * self._facts.latent_scale


class PromptEncoder:
    """A pipeline's tokenizers and text encoders, called through the stock pipeline's own `encode_prompt`."""

    def __init__(
        self,
        folder: Path,
        facts: PipelineFacts,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        prompt_width: int | None = None,
    ) -> None:
        """Load them from a pipeline's folder.

        Args:
            folder: Of `fetch_pipeline`.
            facts: Of the pipeline.
            device: Where they compute.
            dtype: In which they compute.
            prompt_width: Width of `prompt_embeds`, of an SD3 without its T5, which rows of zeros replace.

        Raises:
            UsageError: The pipeline has no text encoder, or a library is missing.
        """
        if not facts.max_prompt_tokens:
            raise UsageError(f"a {facts.class_name} takes no prompts: it is conditioned on classes")
        listed = json.loads((folder / "model_index.json").read_text())
        if not (folder / "text_encoder").is_dir():
            raise UsageError(f"{folder} has no text encoder: import a pipeline folder that has one")
        absent: dict[str, None] = {}
        for name in listed:
            is_text = name.startswith(("text_encoder", "tokenizer"))
            if name in (*_NETWORKS, *_IMAGE_PARTS) or (is_text and not (folder / name).is_dir()):
                absent[name] = None
        kind = getattr(_library("diffusers"), facts.class_name)
        with _quiet():
            self._pipeline = kind.from_pretrained(
                folder, dtype=dtype, variant=_variant(folder / "text_encoder"), **absent
            ).to(device)
        if prompt_width is not None and getattr(self._pipeline, "transformer", 0) is None:
            self._pipeline.transformer = SimpleNamespace(config=SimpleNamespace(joint_attention_dim=prompt_width))
        self._facts, self._device = facts, torch.device(device)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], image_size: int = 0) -> Conditioning:
        """Encode prompts; longer ones than `max_prompt_tokens` are cut as the pipeline does.

        Args:
            prompts: One for each row.
            image_size: Height and width in pixels, which SDXL takes.

        Returns:
            The columns of the family's network: numbers in float32, masks as bool.
        """
        with _quiet():
            return self._columns(self._encoded(list(prompts)), image_size)

    @torch.no_grad()
    def unconditional(self, negative_prompt: str = "", image_size: int = 0) -> Conditioning:
        """One row: what the stock pipeline guides away from where it is given this negative prompt, or none."""
        family = self._facts.family
        with _quiet():
            if family == "flux":
                return self.encode([negative_prompt], image_size)
            given = {"negative_prompt": negative_prompt} if negative_prompt or family == "sana" else {}
            found = self._pipeline.encode_prompt("", do_classifier_free_guidance=True, **self._options(), **given)
            match family:
                case "sd":
                    found = {"prompt_embeds": found[1]}
                case "sana":
                    found = {"prompt_embeds": found[2], "prompt_attention_mask": found[3]}
                case _:
                    found = {"prompt_embeds": found[1], "pooled_prompt_embeds": found[3]}
            return self._columns(found, image_size)

    def too_long(self, prompts: Sequence[str]) -> list[bool]:
        """Which prompts are longer than the encoder that takes the longest ones."""
        instruction = "\n".join(self._instruction() or ())
        found = [getattr(self._pipeline, name, None) for name in ("tokenizer_3", "tokenizer_2", "tokenizer")]
        tokenizer = next(one for one in found if one is not None)
        limit = min(self._facts.max_prompt_tokens, tokenizer.model_max_length)
        if instruction:
            limit = len(tokenizer.encode(instruction)) + self._facts.max_prompt_tokens - 2
        with _quiet():
            tokens = tokenizer([instruction + prompt for prompt in prompts]).input_ids
        return [len(one) > limit for one in tokens]

    def _encoded(self, prompts: list[str]) -> dict[str, Tensor]:
        encode, options = self._pipeline.encode_prompt, self._options()
        match self._facts.family:
            case "sd":
                return {"prompt_embeds": encode(prompts, do_classifier_free_guidance=False, **options)[0]}
            case "flux":
                embeds, pooled, _ = encode(prompts, prompt_2=None, **options)
                return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
            case "sana":
                embeds, mask, _, _ = encode(prompts, do_classifier_free_guidance=False, **options)
                return {"prompt_embeds": embeds, "prompt_attention_mask": mask}
            case _:
                embeds, _, pooled, _ = encode(prompts, do_classifier_free_guidance=False, **options)
                return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"device": self._device, "num_images_per_prompt": 1}
        match self._facts.family:
            case "sd3":
                return options | {
                    "prompt_2": None,
                    "prompt_3": None,
                    "max_sequence_length": self._facts.max_prompt_tokens,
                }
            case "flux":
                return options | {"max_sequence_length": self._facts.max_prompt_tokens}
            case "sana":
                return options | {
                    "max_sequence_length": self._facts.max_prompt_tokens,
                    "complex_human_instruction": self._instruction(),
                }
        return options

    def _instruction(self) -> list[str] | None:
        """Sana's instruction to its language model, which stands before every prompt."""
        parameter = inspect.signature(self._pipeline.__call__).parameters.get("complex_human_instruction")
        return None if parameter is None else parameter.default

    def _columns(self, found: Mapping[str, Tensor], image_size: int) -> Conditioning:
        columns = {name: column.bool() if name.endswith("mask") else column.float() for name, column in found.items()}
        if self._facts.family == "sdxl":
            # Original size, crop and target size, as stock pipelines pass them where nothing else is asked for.
            ids = torch.tensor([image_size, image_size, 0, 0, image_size, image_size], dtype=torch.float32)
            columns["time_ids"] = ids.expand(len(found["prompt_embeds"]), 6)
        return columns


def say_cut(cut: int, total: int) -> None:
    """Say how many prompts were cut, if any."""
    if cut:
        counts = f"{cut:,} of {total:,}"
        logger.warning("note: %s prompts are longer than the text encoder takes, and were cut", counts)


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"pipelines need {name}: pip install 'progdistill[diffusers]'") from error


def _variant(folder: Path) -> str | None:
    """The variant of a component's files, such as fp16, where it has no others."""
    weights = [path.name for path in folder.glob("*.safetensors")]
    variants = {parts[-2] for name in weights if len(parts := name.split(".")) > 2}
    return variants.pop() if len(variants) == 1 and all(name.count(".") > 1 for name in weights) else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars, and warnings about prompts that are cut, which are counted instead."""
    libraries = [_library(name).utils.logging for name in ("diffusers", "transformers")]
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
            library.enable_progress_bar()
