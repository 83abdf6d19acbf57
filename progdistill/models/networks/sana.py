"""`SanaTransformer2DModel`: Sana."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from progdistill.models.conditioning import Conditioning
from progdistill.models.config import Column, DenoiserConfig
from progdistill.models.networks.diffusers import DiffusersNetwork, fill_positions, prompt_column, require


class Sana(DiffusersNetwork):
    """Columns: `prompt_embeds`, `prompt_attention_mask`."""

    class_name = "SanaTransformer2DModel"
    block_classes = ("SanaTransformerBlock",)
    last_layer = "proj_out"
    noise = ("flow",)

    @classmethod
    def facts(cls, arguments: Mapping[str, Any], max_prompt_tokens: int) -> dict[str, Any]:
        """See DiffusersNetwork."""
        channels = arguments["in_channels"]
        require((arguments["out_channels"] or channels) == channels, cls.class_name, "has a learned variance")
        require(not arguments["guidance_embeds"], cls.class_name, "is a consistency model (Sprint): import its teacher")
        return {
            "channels": channels,
            "sample_size": arguments["sample_size"],
            "columns": (
                prompt_column(max_prompt_tokens, arguments["caption_channels"]),
                Column(name="prompt_attention_mask", shape=(max_prompt_tokens,), dtype="bool"),
            ),
        }

    @property
    def flow_time_factor(self) -> float:
        """See DiffusersNetwork."""
        return float(self.config.arguments.get("timestep_scale", 1.0))  # type: ignore[arg-type]

    def build(self, config: DenoiserConfig) -> nn.Module:
        """See Network."""
        module = super().build(config)
        fill_positions(module)
        return module

    def answer(self, module: nn.Module, z: Tensor, time: Tensor, columns: Conditioning, w: Tensor | None) -> Tensor:
        """See DiffusersNetwork."""
        output: Tensor = module(
            z,
            encoder_hidden_states=columns["prompt_embeds"],
            timestep=time,
            encoder_attention_mask=columns["prompt_attention_mask"],
            return_dict=False,
        )[0]
        return output
