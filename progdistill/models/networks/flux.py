"""`FluxTransformer2DModel`: FLUX.1, whose dev model has guidance as an input already."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from progdistill.models.conditioning import Conditioning
from progdistill.models.config import Column
from progdistill.models.networks.diffusers import DiffusersNetwork, prompt_column, require

DEFAULT_SIZE = 128
"""Height and width of a latent where nothing else is asked for (`FluxPipeline.default_sample_size`)."""


class Flux(DiffusersNetwork):
    """Columns: `prompt_embeds`, `pooled_prompt_embeds`.

    The network takes 2 × 2 latent pixels as one token, with positions: latents are packed here, and nowhere else.
    """

    class_name = "FluxTransformer2DModel"
    block_classes = ("FluxSingleTransformerBlock", "FluxTransformerBlock")
    last_layer = "proj_out"
    noise = ("flow",)

    @classmethod
    def facts(cls, arguments: Mapping[str, Any], max_prompt_tokens: int) -> dict[str, Any]:
        """See DiffusersNetwork."""
        tokens, outputs = arguments["in_channels"], arguments["out_channels"] or arguments["in_channels"]
        require(
            tokens == outputs and tokens % 4 == 0 and arguments["patch_size"] == 1,
            cls.class_name,
            f"has {tokens} input and {outputs} output channels: networks that also take an image (Fill, Canny, Depth)"
            " cannot be distilled",
        )
        return {
            "channels": tokens // 4,
            "sample_size": DEFAULT_SIZE,
            "columns": (
                prompt_column(max_prompt_tokens, arguments["joint_attention_dim"]),
                Column(name="pooled_prompt_embeds", shape=(arguments["pooled_projection_dim"],)),
            ),
            "guidance_input": arguments["guidance_embeds"],
        }

    @property
    def flow_time_factor(self) -> float:
        """The network multiplies by 1000 itself."""
        return 1 / 1000

    @property
    def tokens(self) -> int:
        """See DiffusersNetwork."""
        return (self.config.image_size // 2) ** 2

    def answer(self, module: nn.Module, z: Tensor, time: Tensor, columns: Conditioning, w: Tensor | None) -> Tensor:
        """See DiffusersNetwork. It is asked with the guidance scale itself, 1 + w."""
        prompt, (height, width) = columns["prompt_embeds"], z.shape[2:]
        guidance = None
        if self.config.guidance_input:
            guidance = torch.ones_like(time) if w is None else 1 + w
        output: Tensor = module(
            hidden_states=packed(z),
            timestep=time,
            encoder_hidden_states=prompt,
            pooled_projections=columns["pooled_prompt_embeds"],
            guidance=guidance,
            txt_ids=torch.zeros(prompt.shape[1], 3, device=z.device, dtype=z.dtype),
            img_ids=positions(height // 2, width // 2).to(z),
            return_dict=False,
        )[0]
        return unpacked(output, height, width)


def packed(z: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch tokens features"]:
    """Each 2 × 2 pixels as one token of 4·channels features, as `FluxPipeline._pack_latents`."""
    batch, channels, height, width = z.shape
    squares = z.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(batch, (height // 2) * (width // 2), 4 * channels)


def unpacked(
    tokens: Float[Tensor, "batch tokens features"], height: int, width: int
) -> Float[Tensor, "batch channels height width"]:
    """The inverse of `packed`."""
    batch, _, features = tokens.shape
    squares = tokens.reshape(batch, height // 2, width // 2, features // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return squares.reshape(batch, features // 4, height, width)


def positions(height: int, width: int) -> Float[Tensor, "tokens 3"]:
    """Row and column of every token, as `FluxPipeline._prepare_latent_image_ids`; the first coordinate is 0."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack((torch.zeros_like(rows), rows, columns), dim=-1).reshape(-1, 3).float()
