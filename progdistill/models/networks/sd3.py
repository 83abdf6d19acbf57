"""`SD3Transformer2DModel`: Stable Diffusion 3 and 3.5."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from progdistill.models.conditioning import Conditioning
from progdistill.models.config import Column
from progdistill.models.networks.diffusers import DiffusersNetwork, prompt_column, require

CLIP_TOKENS = 77
"""Rows of `prompt_embeds` that come from the two CLIP encoders, before those of T5."""


class SD3(DiffusersNetwork):
    """Columns: `prompt_embeds` (CLIP's rows, then T5's), `pooled_prompt_embeds`."""

    class_name = "SD3Transformer2DModel"
    block_classes = ("JointTransformerBlock",)
    last_layer = "proj_out"
    noise = ("flow",)

    @classmethod
    def facts(cls, arguments: Mapping[str, Any], max_prompt_tokens: int) -> dict[str, Any]:
        """See DiffusersNetwork."""
        channels = arguments["in_channels"]
        require(arguments["out_channels"] == channels, cls.class_name, "has other output channels than input channels")
        return {
            "channels": channels,
            "sample_size": arguments["sample_size"],
            "columns": (
                prompt_column(CLIP_TOKENS + max_prompt_tokens, arguments["joint_attention_dim"]),
                Column(name="pooled_prompt_embeds", shape=(arguments["pooled_projection_dim"],)),
            ),
        }

    def answer(self, module: nn.Module, z: Tensor, time: Tensor, columns: Conditioning, w: Tensor | None) -> Tensor:
        """See DiffusersNetwork."""
        output: Tensor = module(
            hidden_states=z,
            timestep=time,
            encoder_hidden_states=columns["prompt_embeds"],
            pooled_projections=columns["pooled_prompt_embeds"],
            return_dict=False,
        )[0]
        return output
