"""The U-Net of ADM (Dhariwal & Nichol 2021): blocks, network, initialization, interface."""

import math
from itertools import zip_longest

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from progdistill.models.conditioning import Conditioning
from progdistill.models.config import DenoiserConfig, UNetConfig

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
    """Embeds the time, and guidance where it is an input, as the condition of the residual blocks."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width, condition = config.base_channels, config.condition_width
        self.linear_1 = nn.Linear(width, condition)
        self.linear_2 = nn.Linear(condition, condition)
        self.guidance_proj = nn.Linear(width, width, bias=False) if config.guidance_input else None

    def forward(self, time: Float[Tensor, " batch"], w: Float[Tensor, " batch"] | None = None) -> Condition:
        """w = guidance_scale − 1; its features are added to those of the time (Meng et al. 2023)."""
        dtype = self.linear_1.weight.dtype
        features = time_features(time, self.config).to(dtype)
        if self.guidance_proj is not None:
            w = torch.zeros_like(time) if w is None else w
            features = features + self.guidance_proj(guidance_features(w, self.config).to(dtype))
        condition: Tensor = self.linear_2(F.silu(self.linear_1(features)))
        return condition


def guidance_features(w: Float[Tensor, " batch"], config: UNetConfig) -> Float[Tensor, "batch width"]:
    """Features of w; 0 to about 8 is spread over the range that times have."""
    return time_features(1000 * w, config)


class Residual(nn.Module):
    """GroupNorm, SiLU and convolution, twice, added to the input; may halve or double the resolution.

    Scale-shift conditioning is AdaGN(h, y) = y_s · GroupNorm(h) + y_b (Dhariwal & Nichol 2021, section 3);
    y_s is 1 + the projected scale.
    """

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int, resample: str | None = None) -> None:
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
        """`condition` has passed through SiLU already, which is the same for every block."""
        hidden = silu(self.norm1(features))
        if self.resample is not None:
            hidden, features = _resize(hidden, self.resample), _resize(features, self.resample)
        hidden = self.conv1(hidden)
        projected = self.time_emb_proj(condition)[:, :, None, None]
        if self.scale_shift:
            scale, shift = projected.chunk(2, dim=1)
            hidden = torch.addcmul(shift, self.norm2(hidden), 1 + scale)
        else:
            hidden = self.norm2(hidden + projected)
        hidden = silu(hidden)
        if self.dropout:
            hidden = F.dropout(hidden, self.dropout, self.training)
        shortcut: Tensor = features if self.conv_shortcut is None else self.conv_shortcut(features)
        added: Tensor = self.conv2(hidden)
        added += shortcut
        return added


def silu(features: Tensor) -> Tensor:
    """SiLU of a tensor that nothing else reads: in place where no backward pass needs it."""
    return F.silu(features, inplace=not torch.is_grad_enabled())


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


class ConvolutionResampler(nn.Module):
    """Halves the resolution by a convolution of stride 2, or doubles it and convolves (Ho et al. 2020)."""

    def __init__(self, config: UNetConfig, channels: int, resample: str) -> None:
        super().__init__()
        self.resample = resample
        stride, self.padding = (1, 1) if resample == "up" else (2, config.downsample_padding)
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=self.padding)

    def forward(self, features: Features, condition: Condition) -> NewFeatures:
        """The condition is not used; all resamplers have one signature."""
        if self.resample == "up":
            features = _resize(features, "up")
        elif not self.padding:
            features = F.pad(features, (0, 1, 0, 1))
        resampled: Tensor = self.conv(features)
        return resampled


def resampler(config: UNetConfig, channels: int, resample: str) -> nn.Module:
    """The layer that halves ("down") or doubles ("up") the resolution at the end of a level."""
    if config.resampling == "residual":
        return Residual(config, channels, channels, resample)
    return ConvolutionResampler(config, channels, resample)


class UNet(nn.Module):
    """Maps a noisy image and a time to `out_channels` images of the same size."""

    def __init__(self, config: UNetConfig, out_channels: int) -> None:
        super().__init__()
        self.config = config
        base, widths, last = config.base_channels, config.level_channels, len(config.level_channels) - 1
        self.conv_in = nn.Conv2d(config.image_channels, base, 3, padding=1)
        self.time_embedding = TimeEmbedding(config)
        self.class_embedding = nn.Embedding(config.label_rows, config.condition_width) if config.num_classes else None
        entries = (base, *widths[:-1])
        self.down_blocks = nn.ModuleList(
            DownBlock(config, level, entries[level], halve=level < last) for level in range(last + 1)
        )
        self.mid_block = MiddleBlock(config, widths[-1])
        exits = (*widths[1:], widths[-1])
        self.up_blocks = nn.ModuleList(
            UpBlock(config, level, exits[level], entries[level], double=level > 0)
            for level in reversed(range(last + 1))
        )
        self.conv_norm_out = nn.GroupNorm(config.groups, base, eps=config.group_epsilon)
        self.conv_out = nn.Conv2d(base, out_channels, 3, padding=1)

    def forward(
        self,
        z: Float[Tensor, "batch image_channels height width"],
        time: Float[Tensor, " batch"],
        labels: Int[Tensor, " batch"] | None = None,
        w: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch out_channels height width"]:
        """Return the raw output.

        Args:
            z: Noisy images.
            time: The time input the network was trained with: 8192·t − 1 for our own.
            labels: 0 … num_classes − 1, or num_classes for "no class" in a network with label dropout.
                Required by class-conditional networks, ignored by others.
            w: guidance_scale − 1 for networks with a guidance input; None: 0.
        """
        condition = self.time_embedding(time, w)
        if self.class_embedding is not None:
            if labels is None:
                raise ValueError(f"a network of {self.config.num_classes} classes needs labels")
            condition = condition + self.class_embedding(labels)
        condition = F.silu(condition)
        features = self.conv_in(z)
        skips = [features]
        for block in self.down_blocks:
            features = block(features, condition, skips)
        features = self.mid_block(features, condition)
        for block in self.up_blocks:
            features = block(features, condition, skips)
        output: Tensor = self.conv_out(silu(self.conv_norm_out(features)))
        return output


class DownBlock(nn.Module):
    """One resolution on the way down: residual blocks, each followed by attention where there is any."""

    def __init__(self, config: UNetConfig, level: int, entry: int, halve: bool) -> None:
        super().__init__()
        width, count = config.level_channels[level], config.residual_blocks
        self.resnets = nn.ModuleList(Residual(config, entry if i == 0 else width, width) for i in range(count))
        self.attentions = nn.ModuleList(Attention(config, width) for _ in range(count * config.has_attention(level)))
        self.downsamplers = nn.ModuleList([resampler(config, width, "down")] if halve else [])

    def forward(self, features: Features, condition: Condition, skips: list[Tensor]) -> NewFeatures:
        """Append the skip connections to `skips`."""
        for resnet, attention in zip_longest(self.resnets, self.attentions):
            features = resnet(features, condition)
            if attention is not None:
                features = attention(features)
            skips.append(features)
        for resample in self.downsamplers:
            features = resample(features, condition)
            skips.append(features)
        return features


class MiddleBlock(nn.Module):
    """Two residual blocks at the lowest resolution, with attention between them."""

    def __init__(self, config: UNetConfig, width: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(Residual(config, width, width) for _ in range(2))
        kind = config.middle_attention
        self.attentions = nn.ModuleList([] if kind == "none" else [Attention(config, width, kind == "normed")])

    def forward(self, features: Features, condition: Condition) -> Features:
        """Keep the shape."""
        first, second = self.resnets
        features = first(features, condition)
        for attention in self.attentions:
            features = attention(features)
        features = second(features, condition)
        return features


class UpBlock(nn.Module):
    """One resolution on the way up: each residual block also takes a skip connection."""

    def __init__(self, config: UNetConfig, level: int, below: int, entry: int, double: bool) -> None:
        super().__init__()
        width, count = config.level_channels[level], config.residual_blocks + 1
        arriving = [below] + [width] * (count - 1)
        skipped = [width] * (count - 1) + [entry]
        self.resnets = nn.ModuleList(Residual(config, a + s, width) for a, s in zip(arriving, skipped, strict=True))
        self.attentions = nn.ModuleList(Attention(config, width) for _ in range(count * config.has_attention(level)))
        self.upsamplers = nn.ModuleList([resampler(config, width, "up")] if double else [])

    def forward(self, features: Features, condition: Condition, skips: list[Tensor]) -> NewFeatures:
        """Take skip connections from the end of `skips`."""
        for resnet, attention in zip_longest(self.resnets, self.attentions):
            features = resnet(torch.cat((features, skips.pop()), dim=1), condition)
            if attention is not None:
                features = attention(features)
        for resample in self.upsamplers:
            features = resample(features, condition)
        return features


def initialize(network: nn.Module, generator: torch.Generator) -> None:
    """Initialize every parameter in place, in a fixed order.

    Uniform in ±1/√fan_in as in Dhariwal & Nichol's code; zero in the last layer of each residual branch, of
    each attention and of the network, and in the guidance input.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
            for parameter in module.parameters(recurse=False):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, generator=generator)
        elif isinstance(module, nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    last_layers: list[nn.Module] = [network.get_submodule("conv_out")]
    for module in network.modules():
        match module:
            case Residual():
                last_layers.append(module.conv2)
            case Attention():
                last_layers.append(module.to_out)
            case TimeEmbedding(guidance_proj=nn.Linear() as projection):
                last_layers.append(projection)
    for parameter in nn.ModuleList(last_layers).parameters():
        nn.init.zeros_(parameter)


class UNetNetwork:
    """Our U-Net behind the interface of `networks/base.py`."""

    guidance_parameter = "time_embedding.guidance_proj.weight"

    def build(self, config: DenoiserConfig) -> nn.Module:
        """See Network."""
        return UNet(config.unet, config.out_channels)

    def initialize(self, module: nn.Module, generator: torch.Generator) -> None:
        """See Network."""
        initialize(module, generator)

    def __call__(
        self, module: nn.Module, z: Tensor, time: Tensor, conditioning: Conditioning | None, w: Tensor | None
    ) -> Tensor:
        """See Network."""
        output: Tensor = module(z, time, None if conditioning is None else conditioning.get("label"), w)
        return output

    def blocks(self, module: nn.Module) -> list[nn.Module]:
        """See Network. Not the levels: they share a list of skip connections, which FSDP would copy."""
        return [block for block in module.modules() if isinstance(block, Residual | Attention)]

    def last_layers(self, module: nn.Module) -> tuple[str, ...]:
        """See Network."""
        return ("conv_out.weight", "conv_out.bias")
