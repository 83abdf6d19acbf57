"""The magnitude-preserving U-Net of EDM2 (Karras et al. 2024, "Analyzing and improving the training dynamics").

Names of parameters are those of the published files. Weights are normalized where they are used (eq. 47); the forced
normalization in training (eq. 66), a forward pass that changes the weights, is left out: distillation starts from
trained weights, and is short.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from progdistill.models.config import DenoiserConfig, EDMConfig
from progdistill.models.networks.edm import HEAD_CHANNELS, EDMNetwork, Stage, decoder, encoder, one_hot, resampled

Features = Float[Tensor, "batch channels height width"]
NewFeatures = Float[Tensor, "batch new_channels new_height new_width"]

BRANCH_SHARE = 0.3
"""Of a residual branch and of attention in their sum with the main branch."""
LARGEST_ACTIVATION = 256.0


def normalized(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """x divided by its root mean square over `dims`, computed in float32; 1e-4 is added to that (eq. 46)."""
    size = math.prod(x.shape[dim] for dim in dims)
    norm = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.float32) / math.sqrt(size)
    unit: Tensor = x / (norm + 1e-4).to(x.dtype)
    return unit


def mp_silu(x: Tensor) -> Tensor:
    """SiLU that keeps the magnitude of standard Gaussian inputs (eq. 81)."""
    return F.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, share: float) -> Tensor:
    """(1 − share)·a + share·b, divided by the magnitude that this has for independent unit inputs (eq. 88)."""
    return torch.lerp(a, b, share) / math.hypot(1 - share, share)


def mp_cat(a: Features, b: NewFeatures) -> Tensor:
    """Concatenate so that both contribute equally to the magnitude, which stays 1 (eq. 103)."""
    both = a.shape[1] + b.shape[1]
    weights = (math.sqrt(both / channels / 2) for channels in (a.shape[1], b.shape[1]))
    return torch.cat([weight * part for weight, part in zip(weights, (a, b), strict=True)], dim=1)


class MPLayer(nn.Module):
    """A convolution, or a linear layer, of unit-magnitude weights without bias (eq. 47)."""

    def __init__(self, inputs: int, outputs: int, kernel: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, *([kernel, kernel] if kernel else [])))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        """Unit magnitude in, `gain` times unit magnitude out."""
        weight, dims = self.weight.float(), tuple(range(1, self.weight.ndim))
        weight = normalized(weight, dims) * (gain / math.sqrt(weight[0].numel()))
        weight = weight.to(x.dtype)
        return F.linear(x, weight) if weight.ndim == 2 else F.conv2d(x, weight, padding=weight.shape[-1] // 2)


class MPFourier(nn.Module):
    """√2·cos(2π·(f·c + φ)) with fixed random frequencies and phases, which are stored times 2π (eq. 75)."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.zeros(channels))
        self.register_buffer("phases", torch.zeros(channels))

    def forward(self, time: Float[Tensor, " batch"]) -> Float[Tensor, "batch features"]:
        """In float32."""
        angles = time.float()[:, None] * self.freqs.float() + self.phases.float()
        return angles.cos() * math.sqrt(2)


class Block(nn.Module):
    """An encoder or decoder block (Figure 21)."""

    def __init__(self, config: EDMConfig, stage: Stage, encodes: bool) -> None:
        super().__init__()
        inputs, outputs = stage.inputs, stage.outputs
        self.encodes, self.resample = encodes, stage.resample
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = MPLayer(outputs if encodes else inputs, outputs, 3)
        self.emb_linear = MPLayer(config.condition_width, outputs)
        self.conv_res1 = MPLayer(outputs, outputs, 3)
        self.conv_skip = MPLayer(inputs, outputs, 1) if inputs != outputs else None
        self.heads = outputs // HEAD_CHANNELS if stage.attention else 0
        self.attn_qkv = MPLayer(outputs, 3 * outputs, 1) if self.heads else None
        self.attn_proj = MPLayer(outputs, outputs, 1) if self.heads else None

    def forward(self, features: Features, condition: Float[Tensor, "batch condition"]) -> NewFeatures:
        """An encoder's block normalizes its pixels; a decoder's changes the number of channels in its shortcut."""
        main = resampled(features, self.resample, (1, 1))
        if self.encodes:
            main = normalized(main if self.conv_skip is None else self.conv_skip(main), (1,))
        scale = self.emb_linear(condition, gain=self.emb_gain) + 1
        hidden = self.conv_res0(mp_silu(main))
        hidden = self.conv_res1(mp_silu(hidden * scale[:, :, None, None].to(hidden.dtype)))
        if not self.encodes and self.conv_skip is not None:
            main = self.conv_skip(main)
        total = mp_sum(main, hidden, BRANCH_SHARE)
        if self.attn_qkv is not None and self.attn_proj is not None:
            total = mp_sum(total, self.attn_proj(self._attended(self.attn_qkv(total))), BRANCH_SHARE)
        return total.clamp(-LARGEST_ACTIVATION, LARGEST_ACTIVATION)

    def _attended(self, qkv: NewFeatures) -> Features:
        """Attention between vectors of unit magnitude."""
        batch, channels, height, width = qkv.shape
        pixels = normalized(qkv.reshape(batch, self.heads, -1, 3, height * width), (2,))
        query, key, value = pixels.permute(3, 0, 1, 4, 2)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return mixed.transpose(2, 3).reshape(batch, channels // 3, height, width)


class EDM2UNet(nn.Module):
    """F of D(y; s) = c_skip·y + c_out·F(c_in·y, ln(s)/4)."""

    def __init__(self, config: EDMConfig) -> None:
        super().__init__()
        self.config = config
        noise, width, size = config.noise_width, config.condition_width, config.image_size
        self.out_gain = nn.Parameter(torch.zeros([]))
        self.emb_fourier, self.emb_noise = MPFourier(noise), MPLayer(noise, width)
        self.emb_label = MPLayer(config.num_classes, width) if config.num_classes else None
        first = MPLayer(config.image_channels + 1, config.level_channels[0], 3)
        self.enc = nn.ModuleDict({f"{size}x{size}_conv": first})
        self.enc.update({stage.name: Block(config, stage, encodes=True) for stage in encoder(config)})
        self.dec = nn.ModuleDict({stage.name: Block(config, stage, encodes=False) for stage in decoder(config)})
        self.out_conv = MPLayer(config.level_channels[0], config.image_channels, 3)

    def forward(
        self, image: Features, time: Float[Tensor, " batch"], labels: Int[Tensor, " batch"] | None = None
    ) -> Features:
        """F, from c_in·y and ln(s)/4."""
        condition = self._condition(time, labels).to(image.dtype)
        # A channel of ones takes the place of biases.
        features, skips = torch.cat((image, torch.ones_like(image[:, :1])), dim=1), []
        for layer in self.enc.values():
            features = layer(features, condition) if isinstance(layer, Block) else layer(features)
            skips.append(features)
        for name, layer in self.dec.items():
            features = layer(mp_cat(features, skips.pop()) if "block" in name else features, condition)
        output: Tensor = self.out_conv(features, gain=self.out_gain)
        return output

    def _condition(
        self, time: Float[Tensor, " batch"], labels: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch condition"]:
        condition: Tensor = self.emb_noise(self.emb_fourier(time))
        if self.emb_label is not None:
            if labels is None:
                raise ValueError(f"a network of {self.config.num_classes} classes needs labels")
            classes = self.config.num_classes
            label = self.emb_label(one_hot(labels, classes, condition) * math.sqrt(classes))
            condition = mp_sum(condition, label, 0.5)
        return mp_silu(condition)


class EDM2Network(EDMNetwork):
    """The network of EDM2 behind the interface of `base.py`."""

    block_class = Block

    def build(self, config: DenoiserConfig) -> nn.Module:
        """See Network."""
        return EDM2UNet(config.edm)

    def initialize(self, module: nn.Module, generator: torch.Generator) -> None:
        """See Network. Weights are standard Gaussian, gains 0, so that the network answers 0."""
        for layer in module.modules():
            if isinstance(layer, MPLayer):
                nn.init.normal_(layer.weight, generator=generator)
            elif isinstance(layer, MPFourier):
                nn.init.normal_(layer.freqs, std=2 * math.pi, generator=generator)
                nn.init.uniform_(layer.phases, 0, 2 * math.pi, generator=generator)
        for name, parameter in module.named_parameters():
            if name.endswith("gain"):
                nn.init.zeros_(parameter)
