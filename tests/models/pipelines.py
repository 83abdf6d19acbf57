"""Tiny pipelines, one of each family, as diffusers saves them: random weights, vocabularies of single characters.

Each maker takes the folder to save in and returns the pipeline. A latent has 4 channels of 8 × 8, an image 16 × 16
pixels (Flux has no size of its own; Sana takes multiples of 32 pixels: 16 × 16 latents).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PRINTABLE = [chr(code) for code in range(33, 127)]
LATENT_SIZE = 8


def stable_diffusion(
    folder: Path, *, scheduler: Any = None, time_cond_proj_dim: int | None = None, seed: int = 0
) -> Any:
    """As Stable Diffusion 1.5: ε, PNDMScheduler with scaled-linear betas."""
    import diffusers

    torch.manual_seed(seed)
    unet = diffusers.UNet2DConditionModel(**_UNET, cross_attention_dim=32, time_cond_proj_dim=time_cond_proj_dim)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=_vae(scaling_factor=0.18215),
        text_encoder=_clip(32),
        tokenizer=clip_tokenizer(),
        unet=unet,
        scheduler=scheduler or diffusers.PNDMScheduler(**LATENT_BETAS, skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _saved(pipeline, folder)


def sdxl(folder: Path, *, scheduler: Any = None, seed: int = 0) -> Any:
    """As SDXL: two text encoders, a pooled embedding, six sizes."""
    import diffusers

    torch.manual_seed(seed)
    unet = diffusers.UNet2DConditionModel(
        **_UNET,
        cross_attention_dim=48,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
    )
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=_vae(scaling_factor=0.13025),
        text_encoder=_clip(16),
        text_encoder_2=_clip(32, projection=32),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet,
        scheduler=scheduler or diffusers.EulerDiscreteScheduler(**LATENT_BETAS, steps_offset=1),
        add_watermarker=False,
    )
    return _saved(pipeline, folder)


def dit(folder: Path, *, scheduler: Any = None, num_classes: int = 1000, seed: int = 0) -> Any:
    """As DiT: classes, 8 output channels, linear betas. The stock pipeline's "no class" is 1000."""
    import diffusers

    torch.manual_seed(seed)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=LATENT_SIZE,
        num_embeds_ada_norm=num_classes,
    )
    pipeline = diffusers.DiTPipeline(
        transformer=transformer,
        vae=_vae(scaling_factor=0.18215),
        scheduler=scheduler or diffusers.DDIMScheduler(clip_sample=False),
        id2label={str(label): f"class {label}" for label in range(num_classes)},
    )
    return _saved(pipeline, folder)


def sd3(folder: Path, *, shift: float = 3.0, seed: int = 0) -> Any:
    """As Stable Diffusion 3: three text encoders, a flow with static shift."""
    import diffusers

    torch.manual_seed(seed)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=LATENT_SIZE,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=_vae(scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(16, projection=16),
        tokenizer=clip_tokenizer(),
        text_encoder_2=_clip(16, projection=16),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=_t5(32),
        tokenizer_3=t5_tokenizer(),
    )
    return _saved(pipeline, folder)


def flux(folder: Path, *, guidance_embeds: bool = True, seed: int = 0) -> Any:
    """As FLUX.1: guidance is an input (dev), or not (schnell); the shift depends on the image's size (dev)."""
    import diffusers

    torch.manual_seed(seed)
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 4, 8),
    )
    pipeline = diffusers.FluxPipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            shift=3.0 if guidance_embeds else 1.0, use_dynamic_shifting=guidance_embeds
        ),
        vae=_vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(32),
        tokenizer=clip_tokenizer(),
        text_encoder_2=_t5(32),
        tokenizer_2=t5_tokenizer(),
    )
    return _saved(pipeline, folder)


def sana(folder: Path, *, seed: int = 0) -> Any:
    """As Sana: Gemma's embeddings with a mask, a flow in DPMSolverMultistepScheduler's words."""
    import diffusers
    import transformers

    torch.manual_seed(seed)
    transformer = diffusers.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=8,
        sample_size=2 * LATENT_SIZE,
    )
    tokenizer = gemma_tokenizer()
    gemma = transformers.Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=4,
        pad_token_id=tokenizer.pad_token_id,
    )
    vae = diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    )
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    pipeline = diffusers.SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=transformers.Gemma2Model(gemma),
        vae=vae,
        transformer=transformer,
        scheduler=scheduler,
    )
    return _saved(pipeline, folder)


PIPELINES: dict[str, Callable[[Path], Any]] = {
    "sd": stable_diffusion,
    "sdxl": sdxl,
    "dit": dit,
    "sd3": sd3,
    "flux": flux,
    "sana": sana,
}

LATENT_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}

_UNET = {
    "sample_size": LATENT_SIZE,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}


def _saved(pipeline: Any, folder: Path) -> Any:
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _vae(**settings: Any) -> Any:
    import diffusers

    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=2 * LATENT_SIZE,
        **settings,
    )


def _clip(width: int, projection: int | None = None) -> Any:
    """A CLIP text model, with the projection that the pooled embeddings of SDXL and SD3 come from."""
    import transformers

    tokenizer = clip_tokenizer()
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=projection or width,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    make = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return make(config).eval()


def _t5(width: int) -> Any:
    import transformers

    config = transformers.T5Config(
        vocab_size=len(t5_tokenizer()), d_model=width, d_kv=8, d_ff=2 * width, num_layers=1, num_heads=2
    )
    return transformers.T5EncoderModel(config).eval()


def clip_tokenizer() -> Any:
    """One token a byte, 77 tokens at most."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=77)


def t5_tokenizer() -> Any:
    """One token a printable character."""
    from transformers import T5Tokenizer

    letters = [(letter, -2.0) for letter in ("▁", *PRINTABLE)]
    return T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], extra_ids=0)


def gemma_tokenizer() -> Any:
    """One token a printable character."""
    from transformers import GemmaTokenizer

    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *PRINTABLE]
    return GemmaTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[])
