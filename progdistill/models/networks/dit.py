"""`DiTTransformer2DModel`: DiT (Peebles & Xie 2022), and SiT (Ma et al. 2024), which is the same network."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from progdistill.models.conditioning import Conditioning
from progdistill.models.config import Column, DenoiserConfig
from progdistill.models.networks.diffusers import DiffusersNetwork, fill_positions, require


class DiT(DiffusersNetwork):
    """Column: `label`; the row after the last class is "no class".

    Published networks have twice the channels: the second half, the learned variance, stays as it is, and stock
    pipelines drop it as we do.
    """

    class_name = "DiTTransformer2DModel"
    block_classes = ("BasicTransformerBlock",)
    last_layer = "proj_out_2"
    noise = ("betas", "flow")

    @classmethod
    def facts(cls, arguments: Mapping[str, Any], max_prompt_tokens: int) -> dict[str, Any]:
        """See DiffusersNetwork."""
        channels = arguments["in_channels"]
        outputs = arguments["out_channels"] or channels
        require(outputs in (channels, 2 * channels), cls.class_name, f"has {outputs} output channels for {channels}")
        return {
            "channels": channels,
            "sample_size": arguments["sample_size"],
            "columns": (Column(name="label", dtype="int64"),),
            "num_classes": arguments["num_embeds_ada_norm"],
            "label_dropout": True,
        }

    def build(self, config: DenoiserConfig) -> nn.Module:
        """See Network. Its label embeddings would drop labels in training mode, where the objective decides that."""
        module = super().build(config)
        fill_positions(module)
        for layer in module.modules():
            if type(layer).__name__ == "LabelEmbedding":
                layer.dropout_prob = 0.0  # type: ignore[assignment]  # torch types all attributes as modules
        return module

    def answer(self, module: nn.Module, z: Tensor, time: Tensor, columns: Conditioning, w: Tensor | None) -> Tensor:
        """See DiffusersNetwork."""
        output: Tensor = module(z, timestep=time, class_labels=columns["label"], return_dict=False)[0]
        return output[:, : z.shape[1]]
