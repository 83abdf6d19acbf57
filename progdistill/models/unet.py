"""The ADM U-Net of Dhariwal & Nichol (2021), section 3, which the paper uses throughout (App. E).

Modules are named as in diffusers' `UNet2DModel`, so that weights map one to one
(`progdistill.models.diffusers_format`); only the three projections of an attention are one matrix here.
"""

from itertools import zip_longest

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from progdistill.models.blocks import Attention, Residual, TimeEmbedding, downsampler, upsampler
from progdistill.models.config import UNetConfig

Features = Float[Tensor, "batch channels height width"]
NewFeatures = Float[Tensor, "batch new_channels new_height new_width"]
Condition = Float[Tensor, "batch condition"]


class UNet(nn.Module):
    """Maps a noisy image and a time to `out_channels` images of the same size."""

    def __init__(self, config: UNetConfig, out_channels: int) -> None:
        super().__init__()
        self.config = config
        base, widths, last = config.base_channels, config.level_channels, len(config.level_channels) - 1
        self.conv_in = nn.Conv2d(config.image_channels, base, 3, padding=1)
        self.time_embedding = TimeEmbedding(config)
        self.class_embedding = (
            nn.Embedding(config.label_rows, config.condition_width) if config.num_classes else None
        )
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
        guidance: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch out_channels height width"]:
        """The raw output. `time` is what the network was trained to read, 8192·t − 1 for our own.

        `labels` are 0 … num_classes − 1, or num_classes for 'no class' in a network with label dropout; they
        are needed by a class-conditional network and ignored by others. `guidance` is the weight w, 0 where
        None, for networks that have it as an input.
        """
        condition = self.time_embedding(time, guidance)
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
        output: Tensor = self.conv_out(F.silu(self.conv_norm_out(features)))
        return output


class DownBlock(nn.Module):
    """One resolution on the way down: residual blocks, each followed by attention where there is any."""

    def __init__(self, config: UNetConfig, level: int, entry: int, halve: bool) -> None:
        super().__init__()
        width, count = config.level_channels[level], config.residual_blocks
        self.resnets = nn.ModuleList(
            Residual(config, entry if i == 0 else width, width) for i in range(count)
        )
        self.attentions = nn.ModuleList(
            Attention(config, width) for _ in range(count * config.has_attention(level))
        )
        self.downsamplers = nn.ModuleList([downsampler(config, width)] if halve else [])

    def forward(self, features: Features, condition: Condition, skips: list[Tensor]) -> NewFeatures:
        """Appends what the way up will need to `skips`."""
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
        self.attentions = nn.ModuleList(
            [] if kind == "none" else [Attention(config, width, kind == "normed")]
        )

    def forward(self, features: Features, condition: Condition) -> Features:
        """Keeps the shape."""
        first, second = self.resnets
        features = first(features, condition)
        for attention in self.attentions:
            features = attention(features)
        features = second(features, condition)
        return features


class UpBlock(nn.Module):
    """One resolution on the way up: each residual block also takes what the way down left."""

    def __init__(self, config: UNetConfig, level: int, below: int, entry: int, double: bool) -> None:
        super().__init__()
        width, count = config.level_channels[level], config.residual_blocks + 1
        arriving = [below] + [width] * (count - 1)
        skipped = [width] * (count - 1) + [entry]
        self.resnets = nn.ModuleList(
            Residual(config, a + s, width) for a, s in zip(arriving, skipped, strict=True)
        )
        self.attentions = nn.ModuleList(
            Attention(config, width) for _ in range(count * config.has_attention(level))
        )
        self.upsamplers = nn.ModuleList([upsampler(config, width)] if double else [])

    def forward(self, features: Features, condition: Condition, skips: list[Tensor]) -> NewFeatures:
        """Takes from the end of `skips`."""
        for resnet, attention in zip_longest(self.resnets, self.attentions):
            features = resnet(torch.cat((features, skips.pop()), dim=1), condition)
            if attention is not None:
                features = attention(features)
        for resample in self.upsamplers:
            features = resample(features, condition)
        return features
