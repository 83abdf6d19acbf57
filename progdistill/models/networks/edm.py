"""The networks published with EDM (Karras et al. 2022): DDPM++ and NCSN++ (Song et al. 2021), and ADM.

Names of parameters are those of the published files. Augmentation inputs, which are zero in sampling, are left out.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from progdistill.models.conditioning import Conditioning
from progdistill.models.config import DenoiserConfig, EDMConfig

Features = Float[Tensor, "batch channels height width"]
NewFeatures = Float[Tensor, "batch new_channels new_height new_width"]
Condition = Float[Tensor, "batch condition"]

HEAD_CHANNELS = 64
"""Width of an attention head in ADM and EDM2; DDPM++ and NCSN++ have a single head."""


class _Style(NamedTuple):
    """What differs inside the blocks of the architectures."""

    scale_shift: bool = False
    """The condition scales and shifts; otherwise it is added."""
    single_head: bool = True
    epsilon: float = 1e-6
    gain: float = math.sqrt(0.5)
    """Of every sum of two branches."""
    taps: tuple[int, ...] = (1, 1)
    """The filter before every second pixel is dropped, and after one is added."""
    projects: bool = True
    """The shortcut of a block that changes the resolution has a convolution."""


STYLES = {
    "ddpmpp": _Style(),
    "ncsnpp": _Style(taps=(1, 3, 3, 1)),
    "adm": _Style(scale_shift=True, single_head=False, epsilon=1e-5, gain=1.0, projects=False),
}


class Stage(NamedTuple):
    """One entry of the encoder or the decoder."""

    name: str
    inputs: int
    outputs: int
    attention: bool = False
    resample: str | None = None


def encoder(config: EDMConfig) -> list[Stage]:
    """The blocks after the first convolution, from the highest resolution down."""
    single = config.architecture in ("ddpmpp", "ncsnpp")
    stages, width = [], config.base_channels if single else config.level_channels[0]
    for level, channels in enumerate(config.level_channels):
        size = config.image_size >> level
        if level:
            stages.append(Stage(f"{size}x{size}_down", width, width, resample="down"))
        for block in range(config.residual_blocks):
            stages.append(Stage(f"{size}x{size}_block{block}", width, channels, size in config.attention_resolutions))
            width = channels
    return stages


def decoder(config: EDMConfig) -> list[Stage]:
    """The blocks from the lowest resolution up; those named "block" also take a skip connection."""
    on_the_way = encoder(config)
    skipped = [on_the_way[0].inputs, *(stage.outputs for stage in on_the_way)]
    stages, width = [], on_the_way[-1].outputs
    for level, channels in reversed(list(enumerate(config.level_channels))):
        size = config.image_size >> level
        if level == len(config.level_channels) - 1:
            stages += [Stage(f"{size}x{size}_in0", width, width, True), Stage(f"{size}x{size}_in1", width, width)]
        else:
            stages.append(Stage(f"{size}x{size}_up", width, width, resample="up"))
        for block in range(config.residual_blocks + 1):
            last_only = config.architecture in ("ddpmpp", "ncsnpp") and block < config.residual_blocks
            attention = size in config.attention_resolutions and not last_only
            stages.append(Stage(f"{size}x{size}_block{block}", width + skipped.pop(), channels, attention))
            width = channels
    return stages


def resampled(features: Features, how: str | None, taps: tuple[int, ...]) -> NewFeatures:
    """Filter with the outer product of `taps`, and keep every second pixel ("down") or first insert zeros ("up")."""
    if how is None:
        return features
    channels, reach = features.shape[1], len(taps) // 2 - 1
    line = torch.tensor(taps, device=features.device) / sum(taps) * (2 if how == "up" else 1)
    kernel = torch.outer(line, line).to(features.dtype).expand(channels, 1, -1, -1)
    convolve = F.conv_transpose2d if how == "up" else F.conv2d
    return convolve(features, kernel, stride=2, padding=reach, groups=channels)


def one_hot(labels: Int[Tensor, " batch"], classes: int, like: Tensor) -> Float[Tensor, "batch classes"]:
    """Rows with a 1 at the label; all zeros for the label `classes`, "no class"."""
    return F.one_hot(labels, classes + 1)[:, :classes].to(like.dtype)


class Block(nn.Module):
    """A residual block with optional attention; it may halve or double the resolution."""

    def __init__(self, config: EDMConfig, stage: Stage) -> None:
        super().__init__()
        self.style, self.resample = STYLES[config.architecture], stage.resample
        style, inputs, outputs = self.style, stage.inputs, stage.outputs
        self.norm0 = _norm(inputs, style.epsilon)
        self.conv0 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.affine = nn.Linear(config.condition_width, outputs * (2 if style.scale_shift else 1))
        self.norm1 = _norm(outputs, style.epsilon)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        projected = inputs != outputs or (stage.resample is not None and style.projects)
        self.skip = nn.Conv2d(inputs, outputs, 1) if projected else None
        self.heads = (1 if style.single_head else outputs // HEAD_CHANNELS) if stage.attention else 0
        if self.heads:
            self.norm2 = _norm(outputs, style.epsilon)
            self.qkv = nn.Conv2d(outputs, 3 * outputs, 1)
            self.proj = nn.Conv2d(outputs, outputs, 1)

    def forward(self, features: Features, condition: Condition) -> NewFeatures:
        """Sum the shortcut and the residual branch, then add attention."""
        style = self.style
        hidden = self.conv0(resampled(F.silu(self.norm0(features)), self.resample, style.taps))
        projected = self.affine(condition)[:, :, None, None]
        if style.scale_shift:
            scale, shift = projected.chunk(2, dim=1)
            hidden = torch.addcmul(shift, self.norm1(hidden), 1 + scale)
        else:
            hidden = self.norm1(hidden + projected)
        shortcut = resampled(features, self.resample, style.taps)
        if self.skip is not None:
            shortcut = self.skip(shortcut)
        total: Tensor = (shortcut + self.conv1(F.silu(hidden))) * style.gain
        return (total + self._attended(total)) * style.gain if self.heads else total

    def _attended(self, features: Features) -> Features:
        pixels = self.qkv(self.norm2(features)).flatten(2).unflatten(1, (self.heads, -1, 3))
        query, key, value = pixels.permute(3, 0, 1, 4, 2)
        mixed = F.scaled_dot_product_attention(query, key, value)
        attended: Tensor = self.proj(mixed.transpose(2, 3).reshape(features.shape))
        return attended


def _norm(channels: int, epsilon: float) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels // 4), channels, eps=epsilon)


class AuxiliaryInput(nn.Module):
    """NCSN++: the image, convolved and halved with the features, added to them (a "residual" encoder)."""

    def __init__(self, inputs: int, outputs: int, taps: tuple[int, ...]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.taps = taps

    def forward(self, image: Features) -> NewFeatures:
        """Convolve, with room for the filter at the edges, then filter and halve without."""
        reach = len(self.taps) // 2 - 1
        wide = F.conv2d(image, self.weight, padding=1 + reach)
        line = torch.tensor(self.taps, device=image.device) / sum(self.taps)
        kernel = torch.outer(line, line).to(wide.dtype).expand(wide.shape[1], 1, -1, -1)
        return F.conv2d(wide, kernel, stride=2, groups=wide.shape[1]) + self.bias[:, None, None]


class EDMUNet(nn.Module):
    """F of D(y; s) = c_skip·y + c_out·F(c_in·y, ln(s)/4)."""

    def __init__(self, config: EDMConfig) -> None:
        super().__init__()
        self.config, self.style = config, STYLES[config.architecture]
        width, noise, colors = config.condition_width, config.noise_width, config.image_channels
        stages = encoder(config)
        self.is_adm = config.architecture == "adm"
        if config.architecture == "ncsnpp":
            self.map_noise = nn.Module()
            self.map_noise.register_buffer("freqs", torch.zeros(noise // 2))
        if config.num_classes:
            self.map_label = nn.Linear(config.num_classes, width if self.is_adm else noise, bias=not self.is_adm)
        self.map_layer0, self.map_layer1 = nn.Linear(noise, width), nn.Linear(width, width)
        size = config.image_size
        self.enc = nn.ModuleDict({f"{size}x{size}_conv": nn.Conv2d(colors, stages[0].inputs, 3, padding=1)})
        arriving = colors
        for stage in stages:
            self.enc[stage.name] = Block(config, stage)
            if stage.resample and config.architecture == "ncsnpp":
                name = stage.name.replace("_down", "_aux_residual")
                self.enc[name] = AuxiliaryInput(arriving, stage.outputs, self.style.taps)
                arriving = stage.outputs
        self.dec = nn.ModuleDict({stage.name: Block(config, stage) for stage in decoder(config)})
        last = config.level_channels[0]
        norm, convolution = _norm(last, self.style.epsilon), nn.Conv2d(last, colors, 3, padding=1)
        if self.is_adm:
            self.out_norm, self.out_conv = norm, convolution
        else:
            self.dec[f"{size}x{size}_aux_norm"], self.dec[f"{size}x{size}_aux_conv"] = norm, convolution

    def forward(
        self, image: Features, time: Float[Tensor, " batch"], labels: Int[Tensor, " batch"] | None = None
    ) -> Features:
        """F, from c_in·y and ln(s)/4."""
        condition = self._condition(time, labels)
        features, auxiliary = image, image
        skips: list[Tensor] = []
        for layer in self.enc.values():
            if isinstance(layer, AuxiliaryInput):
                features = skips[-1] = auxiliary = (features + layer(auxiliary)) * self.style.gain
            else:
                features = layer(features, condition) if isinstance(layer, Block) else layer(features)
                skips.append(features)
        for name, layer in self.dec.items():
            if isinstance(layer, Block):
                features = layer(torch.cat((features, skips.pop()), dim=1) if "block" in name else features, condition)
        size = self.config.image_size
        norm = self.out_norm if self.is_adm else self.dec[f"{size}x{size}_aux_norm"]
        convolution = self.out_conv if self.is_adm else self.dec[f"{size}x{size}_aux_conv"]
        output: Tensor = convolution(F.silu(norm(features)))
        return output

    def _condition(self, time: Float[Tensor, " batch"], labels: Int[Tensor, " batch"] | None) -> Condition:
        config, dtype = self.config, self.map_layer0.weight.dtype
        angles = time.float()[:, None] * self._frequencies(time.device)
        waves = (angles.cos(), angles.sin()) if self.is_adm else (angles.sin(), angles.cos())
        hidden = torch.cat(waves, dim=1).to(dtype)
        label = None
        if config.num_classes:
            if labels is None:
                raise ValueError(f"a network of {config.num_classes} classes needs labels")
            label = one_hot(labels, config.num_classes, hidden)
        if self.is_adm:
            hidden = self.map_layer1(F.silu(self.map_layer0(hidden)))
            return F.silu(hidden if label is None else hidden + self.map_label(label))
        if label is not None:
            hidden = hidden + self.map_label(label * math.sqrt(config.num_classes))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(hidden))))

    def _frequencies(self, device: torch.device) -> Float[Tensor, " half"]:
        if self.config.architecture == "ncsnpp":
            return self.map_noise.get_buffer("freqs").float() * (2 * math.pi)
        half = self.config.noise_width // 2
        last = half if self.is_adm else half - 1
        return 10_000 ** -(torch.arange(half, dtype=torch.float32, device=device) / last)


class EDMNetwork:
    """The networks of EDM behind the interface of `base.py`."""

    guidance_parameter = None
    block_class: type[nn.Module] = Block

    def build(self, config: DenoiserConfig) -> nn.Module:
        """See Network."""
        return EDMUNet(config.edm)

    def initialize(self, module: nn.Module, generator: torch.Generator) -> None:
        """See Network. Uniform in ±1/√fan_in; zero in the last layer of each branch and of the network."""
        last_layers = set(_last_layers(module))
        for layer in module.modules():
            if isinstance(layer, nn.GroupNorm):
                nn.init.ones_(layer.weight)
                nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.Conv2d | nn.Linear | AuxiliaryInput):
                bound = 0.0 if layer in last_layers else 1 / math.sqrt(layer.weight[0].numel())
                for parameter in layer.parameters(recurse=False):
                    nn.init.uniform_(parameter, -bound, bound, generator=generator)
        for name, buffer in module.named_buffers():
            if name.endswith("freqs"):
                nn.init.normal_(buffer, std=16, generator=generator)

    def __call__(
        self, module: nn.Module, z: Tensor, time: Tensor, conditioning: Conditioning | None, w: Tensor | None
    ) -> Tensor:
        """See Network."""
        output: Tensor = module(z, time, None if conditioning is None else conditioning.get("label"))
        return output

    def blocks(self, module: nn.Module) -> list[nn.Module]:
        """See Network."""
        return [block for block in module.modules() if isinstance(block, self.block_class)]

    def last_layers(self, module: nn.Module) -> tuple[str, ...]:
        """See Network. The output has as many channels as the image, whatever it means."""
        return ()


def _last_layers(module: nn.Module) -> Iterator[nn.Module]:
    for name, layer in module.named_modules():
        if name.endswith(("conv1", "proj", "aux_conv", "out_conv")):
            yield layer
