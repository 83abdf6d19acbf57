"""SDXL's and SD3's published configurations, without weights: counted, planned, and exported by name and shape."""

from typing import Any

import pytest
import torch

from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.noise_schedules import DiscreteSchedule, FlowSchedule
from progdistill.models.comfyui_export import original_names
from progdistill.models.config import DenoiserConfig
from progdistill.models.denoiser import guidance_parameter, unallocated
from progdistill.models.networks.registry import diffusers_network
from progdistill.models.size import parameter_count

pytestmark = pytest.mark.slow

# unet/config.json of stabilityai/stable-diffusion-xl-base-1.0.
SDXL: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "layers_per_block": 2,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}
# transformer/config.json of stabilityai/stable-diffusion-3-medium-diffusers.
SD3: dict[str, Any] = {
    "attention_head_dim": 64,
    "caption_projection_dim": 1536,
    "in_channels": 16,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 24,
    "out_channels": 16,
    "patch_size": 2,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
    "sample_size": 128,
}


def test_sdxl_has_its_parameters_columns_and_original_names() -> None:
    network = diffusers_network("UNet2DConditionModel").describe(SDXL, None, 77)
    assert network.sample_shape == (4, 128, 128)
    # As published: "UNet 2.6B" in table 1 of Podell et al. (2023).
    assert parameter_count(network) == pytest.approx(2.6e9, rel=0.02)
    shapes = {column.name: column.shape for column in network.columns}
    assert shapes == {"prompt_embeds": (77, 2048), "pooled_prompt_embeds": (1280,), "time_ids": (6,)}
    student = network.for_student(guidance_input=True)
    config = DenoiserConfig(
        network=student, prediction=PredictionType.V, foreign_schedule=DiscreteSchedule(kind="scaled_linear")
    )
    weights = dict(unallocated(config).network.state_dict())
    assert sum(tensor.numel() for tensor in weights.values()) == parameter_count(student)
    added = weights.pop(guidance_parameter(config).removeprefix("network."))
    assert added.shape == (320, 256)
    original = original_names(weights, student)
    # Of sd_xl_base_1.0.safetensors, where they begin with model.diffusion_model.
    assert len(original) == 1680
    assert original["label_emb.0.0.weight"].shape == (1280, 2816)
    assert original["input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight"].shape == (640, 2048)
    assert original["input_blocks.3.0.op.weight"].shape == (320, 320, 3, 3)
    assert original["middle_block.1.transformer_blocks.9.ff.net.0.proj.weight"].shape == (10240, 1280)
    assert original["output_blocks.2.2.conv.weight"].shape == (1280, 1280, 3, 3)
    assert original["output_blocks.8.0.skip_connection.weight"].shape == (320, 640, 1, 1)


def test_sd3_has_its_parameters_and_columns() -> None:
    network = diffusers_network("SD3Transformer2DModel").describe(SD3, None, 256)
    assert network.sample_shape == (16, 128, 128)
    # As published: "2 billion parameters".
    assert parameter_count(network) == pytest.approx(2.03e9, rel=0.02)
    shapes = {column.name: column.shape for column in network.columns}
    assert shapes == {"prompt_embeds": (333, 4096), "pooled_prompt_embeds": (2048,)}
    config = DenoiserConfig(network=network, prediction=PredictionType.V, foreign_schedule=FlowSchedule())
    denoiser = unallocated(config)
    names = dict(denoiser.network.named_parameters())
    assert sum(tensor.numel() for tensor in names.values()) == parameter_count(network)
    assert names["transformer_blocks.23.attn.add_k_proj.weight"].shape == (1536, 1536)
    assert names["proj_out.weight"].shape == (64, 1536)
    assert all(tensor.device == torch.device("meta") for tensor in names.values())
    assert len(denoiser.ask.blocks(denoiser.network)) == 24
