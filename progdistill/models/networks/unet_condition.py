"""`UNet2DConditionModel`: Stable Diffusion 1.5 and 2, and SDXL."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from progdistill.models.conditioning import Conditioning
from progdistill.models.config import GUIDANCE_FEATURES, Column
from progdistill.models.networks.diffusers import DiffusersNetwork, prompt_column, require

_UNSUPPORTED = {
    "class_embed_type": "classes",
    "num_class_embeds": "classes",
    "encoder_hid_dim_type": "image embeddings",
    "dual_cross_attention": "two contexts",
}


class UNetCondition(DiffusersNetwork):
    """Columns: `prompt_embeds`, for SDXL also `pooled_prompt_embeds` and `time_ids`.

    Where `time_cond_proj_dim` is set, stock pipelines pass w = guidance_scale − 1 as an input, and do not evaluate the
    network twice.
    """

    class_name = "UNet2DConditionModel"
    block_classes = ("BasicTransformerBlock", "ResnetBlock2D")
    last_layer = "conv_out"
    noise = ("betas",)
    guidance_parameter = "time_embedding.cond_proj.weight"

    @classmethod
    def facts(cls, arguments: Mapping[str, Any], max_prompt_tokens: int) -> dict[str, Any]:
        """See DiffusersNetwork."""
        channels, width = arguments["in_channels"], arguments["cross_attention_dim"]
        require(
            channels == arguments["out_channels"],
            cls.class_name,
            f"has {channels} input and {arguments['out_channels']} output channels: networks that also take an image"
            " (inpainting, editing, upscaling) cannot be distilled",
        )
        for name, what in _UNSUPPORTED.items():
            require(not arguments.get(name), cls.class_name, f"takes {what} ({name}), which is not supported")
        added = arguments.get("addition_embed_type")
        require(added in (None, "text_time"), cls.class_name, f"has addition_embed_type={added}: not supported")
        require(isinstance(width, int), cls.class_name, "has a context of another width in each block")
        columns = [prompt_column(max_prompt_tokens, width)]
        if added == "text_time":
            pooled = arguments["projection_class_embeddings_input_dim"] - 6 * arguments["addition_time_embed_dim"]
            require(pooled > 0, cls.class_name, "takes other sizes than SDXL's six")
            columns.append(Column(name="pooled_prompt_embeds", shape=(pooled,)))
            columns.append(Column(name="time_ids", shape=(6,)))
        return {
            "channels": channels,
            "sample_size": arguments["sample_size"],
            "columns": tuple(columns),
            "guidance_input": arguments.get("time_cond_proj_dim") is not None,
            "guidance_width": arguments["block_out_channels"][0],
        }

    def arguments(self) -> dict[str, Any]:
        """See DiffusersNetwork. With a guidance input that the teacher lacks, of the usual width."""
        arguments = super().arguments()
        if self.config.guidance_input and arguments.get("time_cond_proj_dim") is None:
            arguments["time_cond_proj_dim"] = GUIDANCE_FEATURES
        return arguments

    def answer(self, module: nn.Module, z: Tensor, time: Tensor, columns: Conditioning, w: Tensor | None) -> Tensor:
        """See DiffusersNetwork."""
        guidance = added = None
        if self.config.guidance_input:
            width = int(self.arguments()["time_cond_proj_dim"])
            guidance = guidance_features(torch.zeros_like(time) if w is None else w, width).to(z.dtype)
        if "time_ids" in columns:
            added = {"text_embeds": columns["pooled_prompt_embeds"], "time_ids": columns["time_ids"]}
        output: Tensor = module(
            z,
            time,
            encoder_hidden_states=columns["prompt_embeds"],
            timestep_cond=guidance,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return output


def guidance_features(w: Float[Tensor, " batch"], width: int) -> Float[Tensor, "batch width"]:
    """Sines and cosines of 1000·w, as stock pipelines compute them (`get_guidance_scale_embedding`)."""
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=w.device) * (-math.log(10_000) / (half - 1))
    angles = 1000 * w.float()[:, None] * exponents.exp()
    return torch.cat((angles.sin(), angles.cos()), dim=1)
