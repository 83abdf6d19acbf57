"""CLIP score: how well images match their prompts (Hessel et al. 2021), by a CLIP model that the user names."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from progdistill.errors import UsageError
from progdistill.features.weights import CLIP_ADVICE, check_clip, read_clip_json

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of pixels in 0..1, where the folder has no preprocessor_config.json."""


class ClipScorer:
    """Compares images with texts."""

    def __init__(self, folder: str, device: str) -> None:
        """Load the model onto a device. UsageError where transformers cannot read it."""
        from transformers import AutoTokenizer, CLIPModel

        where = check_clip(folder).parent
        try:
            model: Any = CLIPModel.from_pretrained(where, use_safetensors=True)
            self._tokenizer = AutoTokenizer.from_pretrained(where)
        except Exception as error:  # readers of a foreign folder raise almost anything
            raise UsageError(f"evaluation.clip_model = {folder} cannot be read: {error}; {CLIP_ADVICE}") from None
        self._model = model.to(device).eval()
        shown = (
            read_clip_json(where / "preprocessor_config.json") if (where / "preprocessor_config.json").is_file() else {}
        )
        self._mean = _channels(shown.get("image_mean", OPENAI_MEAN), device)
        self._std = _channels(shown.get("image_std", OPENAI_STD), device)
        self._device = device

    @torch.inference_mode()
    def __call__(
        self, images: UInt8[Tensor, "batch channels height width"], texts: Sequence[str]
    ) -> Float[Tensor, " batch"]:
        """100 × the cosine of the angle between each image's embedding and that of its text, on the CPU."""
        size = self._model.config.vision_config.image_size
        pixels = images.to(self._device).expand(-1, 3, -1, -1).float() / 255
        pixels = torch.nn.functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
        limit = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            list(texts), padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
        ).to(self._device)
        found = self._model(pixel_values=(pixels - self._mean) / self._std, **tokens)
        cosines: Tensor = torch.nn.functional.cosine_similarity(found.image_embeds, found.text_embeds)
        return 100 * cosines.float().cpu()


def _channels(values: Sequence[float], device: str) -> Tensor:
    return torch.tensor(list(values), device=device)[:, None, None]
