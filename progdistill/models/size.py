"""The number of parameters of a network by arithmetic: planning does not import torch."""

from progdistill.models.config import DiffusersConfig, EDMConfig, UNetConfig


def parameter_count(config: UNetConfig | DiffusersConfig | EDMConfig, out_channels: int | None = None) -> int:
    """The number of parameters of a network, our own with `out_channels`; None: as many as image channels."""
    if isinstance(config, DiffusersConfig | EDMConfig):
        return config.parameters
    base, widths = config.base_channels, config.level_channels
    entries, exits = (base, *widths[:-1]), (*widths[1:], widths[-1])
    by_residual = config.resampling == "residual"
    total = _convolution(config.image_channels, base) + _conditions(config)
    for level, width in enumerate(widths):
        count, attended = config.residual_blocks, config.has_attention(level)
        down = [entries[level]] + [width] * (count - 1)
        arriving = [exits[level]] + [width] * count
        skipped = [width] * count + [entries[level]]
        up = [a + s for a, s in zip(arriving, skipped, strict=True)]
        total += sum(_residual(config, channels, width) for channels in (*down, *up))
        total += (len(down) + len(up)) * attended * _attention(width, normed=True)
        resampled = (level < len(widths) - 1) + (level > 0)
        total += resampled * (_residual(config, width, width) if by_residual else _convolution(width, width))
    total += 2 * _residual(config, widths[-1], widths[-1])
    if config.middle_attention != "none":
        total += _attention(widths[-1], normed=config.middle_attention == "normed")
    return total + 2 * base + _convolution(base, out_channels or config.image_channels)


def _conditions(config: UNetConfig) -> int:
    """Embeddings of time, label and guidance."""
    base, width = config.base_channels, config.condition_width
    time = _linear(base, width) + _linear(width, width)
    return time + config.label_rows * width + config.guidance_input * base * base


def _residual(config: UNetConfig, inputs: int, outputs: int) -> int:
    factor = 2 if config.conditioning == "scale_shift" else 1
    shortcut = _convolution(inputs, outputs, 1) if inputs != outputs else 0
    convolutions = _convolution(inputs, outputs) + _convolution(outputs, outputs) + shortcut
    return 2 * inputs + 2 * outputs + convolutions + _linear(config.condition_width, factor * outputs)


def _attention(width: int, normed: bool) -> int:
    return _linear(width, 3 * width) + _linear(width, width) + 2 * width * normed


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _convolution(inputs: int, outputs: int, size: int = 3) -> int:
    return inputs * outputs * size * size + outputs
