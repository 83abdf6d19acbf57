"""The parts a U-Net is built of: residual blocks with adaptive normalisation, attention, resampling, time."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from progdistill.models.config import UNetConfig

Features = Float[Tensor, "batch channels height width"]
NewFeatures = Float[Tensor, "batch new_channels new_height new_width"]
Condition = Float[Tensor, "batch condition"]


def time_features(time: Float[Tensor, " batch"], config: UNetConfig) -> Float[Tensor, "batch width"]:
    """Sines and cosines of the time at frequencies from 1 down to 1/10000 (Ho et al. 2020); float32."""
    half = config.base_channels // 2
    steps = torch.arange(half, dtype=torch.float32, device=time.device)
    frequencies = torch.exp(steps * (-math.log(10_000) / max(half - config.time_frequency_shift, 1)))
    angles = time.float()[:, None] * frequencies
    pair = (angles.sin(), angles.cos())
    return torch.cat(pair if config.time_features == "sin_cos" else pair[::-1], dim=1)


class TimeEmbedding(nn.Module):
    """Time, and guidance where it is an input, to the vector that conditions every residual block."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width, condition = config.base_channels, config.condition_width
        self.linear_1 = nn.Linear(width, condition)
        self.linear_2 = nn.Linear(condition, condition)
        self.guidance_proj = nn.Linear(width, width, bias=False) if config.guidance_input else None

    def forward(
        self, time: Float[Tensor, " batch"], guidance: Float[Tensor, " batch"] | None = None
    ) -> Condition:
        """`guidance` is the weight w ≥ 0; its features are added to those of the time (Meng et al. 2023)."""
        dtype = self.linear_1.weight.dtype
        features = time_features(time, self.config).to(dtype)
        if self.guidance_proj is not None:
            weight = torch.zeros_like(time) if guidance is None else guidance
            features = features + self.guidance_proj(guidance_features(weight, self.config).to(dtype))
        condition: Tensor = self.linear_2(F.silu(self.linear_1(features)))
        return condition


def guidance_features(weight: Float[Tensor, " batch"], config: UNetConfig) -> Float[Tensor, "batch width"]:
    """Features of guidance weights; 0 to about 8 is spread over the range that times have."""
    return time_features(1000 * weight, config)


class Residual(nn.Module):
    """GroupNorm, SiLU and convolution, twice, added to the input; may halve or double the resolution.

    Scale-shift conditioning is AdaGN(h, y) = y_s · GroupNorm(h) + y_b (Dhariwal & Nichol 2021, section 3);
    y_s is 1 + the projected scale.
    """

    def __init__(
        self, config: UNetConfig, in_channels: int, out_channels: int, resample: str | None = None
    ) -> None:
        super().__init__()
        self.resample = resample
        self.scale_shift = config.conditioning == "scale_shift"
        self.dropout = config.dropout
        self.norm1 = nn.GroupNorm(config.groups, in_channels, eps=config.group_epsilon)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(config.condition_width, out_channels * (2 if self.scale_shift else 1))
        self.norm2 = nn.GroupNorm(config.groups, out_channels, eps=config.group_epsilon)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, features: Features, condition: Condition) -> NewFeatures:
        """`condition` has been through its SiLU already: every block would apply the same one."""
        hidden = F.silu(self.norm1(features))
        if self.resample is not None:
            hidden, features = _resize(hidden, self.resample), _resize(features, self.resample)
        hidden = self.conv1(hidden)
        projected = self.time_emb_proj(condition)[:, :, None, None]
        if self.scale_shift:
            scale, shift = projected.chunk(2, dim=1)
            hidden = torch.addcmul(shift, self.norm2(hidden), 1 + scale)
        else:
            hidden = self.norm2(hidden + projected)
        hidden = F.silu(hidden)
        if self.dropout:
            hidden = F.dropout(hidden, self.dropout, self.training)
        shortcut: Tensor = features if self.conv_shortcut is None else self.conv_shortcut(features)
        added: Tensor = self.conv2(hidden)
        return shortcut + added


def _resize(features: Features, resample: str) -> NewFeatures:
    """Average 2×2 pixels, or repeat each pixel 2×2 times."""
    if resample == "down":
        return F.avg_pool2d(features, 2)
    repeated: Tensor = F.interpolate(features, scale_factor=2.0, mode="nearest")
    return repeated


class Attention(nn.Module):
    """Self-attention over all pixels, added to its input."""

    def __init__(self, config: UNetConfig, channels: int, normed: bool = True) -> None:
        super().__init__()
        self.heads = channels // (config.head_channels or channels)
        self.group_norm = nn.GroupNorm(config.groups, channels, eps=config.group_epsilon) if normed else None
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = nn.Linear(channels, channels)

    def forward(self, features: Features) -> Features:
        """Softmax attention with scale 1/√(head width)."""
        batch, channels, height, width = features.shape
        hidden = features if self.group_norm is None else self.group_norm(features)
        pixels = hidden.flatten(2).transpose(1, 2)
        query, key, value = self.to_qkv(pixels).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        added: Tensor = self.to_out(mixed).transpose(1, 2).reshape(batch, channels, height, width)
        return features + added


class StridedConvolution(nn.Module):
    """Halve the resolution by a convolution of stride 2 (Ho et al. 2020)."""

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        self.padding = config.downsample_padding
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=self.padding)

    def forward(self, features: Features, condition: Condition) -> NewFeatures:
        """The condition is not used; every resampling is called alike."""
        halved: Tensor = self.conv(features if self.padding else F.pad(features, (0, 1, 0, 1)))
        return halved


class UpsampledConvolution(nn.Module):
    """Double the resolution, then convolve (Ho et al. 2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, features: Features, condition: Condition) -> NewFeatures:
        """The condition is not used; every resampling is called alike."""
        doubled: Tensor = self.conv(_resize(features, "up"))
        return doubled


def downsampler(config: UNetConfig, channels: int) -> nn.Module:
    """What halves the resolution at the end of a level."""
    if config.resampling == "residual":
        return Residual(config, channels, channels, "down")
    return StridedConvolution(config, channels)


def upsampler(config: UNetConfig, channels: int) -> nn.Module:
    """What doubles the resolution at the end of a level."""
    if config.resampling == "residual":
        return Residual(config, channels, channels, "up")
    return UpsampledConvolution(channels)
