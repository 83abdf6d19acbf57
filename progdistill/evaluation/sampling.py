"""Images from a denoiser, each a function of (seed, index) alone."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from progdistill.diffusion.names import SamplerName
from progdistill.diffusion.noise import sample_noise
from progdistill.diffusion.samplers import SAMPLERS
from progdistill.errors import LostInvariantError
from progdistill.evaluation.metrics import classes_in_shares
from progdistill.models.denoiser import Denoiser

UInt8Images = UInt8[Tensor, "batch channels height width"]


def generate(
    denoiser: Denoiser,
    sampler: SamplerName,
    steps: int,
    *,
    indices: Sequence[int],
    seed: int,
    batch_size: int,
    gamma: float | None = None,
    guidance: float | None = None,
    clip: bool = True,
    class_label: int | None = None,
    class_counts: tuple[int, ...] | None = None,
    device: torch.device | str = "cpu",
    name: str = "this model",
) -> Iterator[UInt8Images]:
    """Yield the samples `indices`, in order, in batches of at most `batch_size`, on `device`.

    Sample i starts from noise of (seed, i), draws noise of (seed, step, i) where the sampler is stochastic
    (`gamma` is then the log-scale position of its variance), and shows the class that `labels_of` gives it.
    `guidance` is the weight it is guided with, if any. Equal indices give equal images, bit for bit at equal
    batch shape, else up to floating-point order: where a device's memory is too small for a batch, batches
    are halved from there on.

    Raises LostInvariantError, which calls the denoiser by its `name`, for samples that are not finite.
    """
    network = denoiser.config.network
    shape = (network.image_channels, network.image_size, network.image_size)
    denoiser = denoiser.to(device).eval()
    options = {} if gamma is None else {"gamma": gamma}

    def draw(batch: Sequence[int]) -> UInt8Images:
        with torch.inference_mode():
            z = sample_noise(seed, "sample", batch, shape).to(device)
            labels = labels_of(batch, network.num_classes, class_label, class_counts)
            velocity = denoiser.bind(None if labels is None else labels.to(device), guidance)
            noise = _step_noise(seed, batch, shape, device)
            x = SAMPLERS[sampler](velocity, z, steps, noise=noise, clip=clip, **options)
            if not x.isfinite().all():
                raise LostInvariantError(
                    f"{name} gave values that are not finite (NaN or infinite) among samples {batch[0]} to"
                    f" {batch[-1]} with {sampler} × {steps}: look for such values in its weights, and take"
                    " another checkpoint (`progdistill checkpoints list`) or train or import it again"
                )
            return to_uint8(x)

    return in_batches(draw, indices, batch_size)


def in_batches(
    draw: Callable[[Sequence[int]], UInt8Images], indices: Sequence[int], batch_size: int
) -> Iterator[UInt8Images]:
    """Yield `draw` of successive batches, halving them where memory does not suffice.

    Raises torch.OutOfMemoryError where it does not suffice for one image.
    """
    start = 0
    while start < len(indices):
        batch = indices[start : start + batch_size]
        drawn = _unless_memory_is_short(draw, batch)
        if drawn is None:
            batch_size = max(len(batch) // 2, 1)
        else:
            start += len(batch)
            yield drawn


def _unless_memory_is_short(
    draw: Callable[[Sequence[int]], UInt8Images], batch: Sequence[int]
) -> UInt8Images | None:
    """None where memory was short; by then the failed attempt's tensors are gone."""
    try:
        return draw(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
        return None


def labels_of(
    indices: Sequence[int],
    num_classes: int,
    class_label: int | None = None,
    class_counts: tuple[int, ...] | None = None,
) -> Int64[Tensor, " batch"] | None:
    """The class of each sample; None where there are no classes.

    It is `class_label` for all, else in the shares of `class_counts` (`classes_in_shares`), else index mod
    num_classes.
    """
    if num_classes == 0:
        return None
    numbers = np.array(indices, np.int64)
    if class_label is not None:
        return torch.full((len(numbers),), class_label)
    classes = numbers % num_classes if class_counts is None else classes_in_shares(numbers, class_counts)
    return torch.from_numpy(classes)


def to_uint8(x: Float[Tensor, "batch channels height width"]) -> UInt8Images:
    """Map [−1, 1] to 0 … 255 as (x + 1)·127.5, rounded and clamped."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _step_noise(
    seed: int, indices: Sequence[int], shape: tuple[int, ...], device: torch.device | str
) -> Callable[[int], Tensor]:
    return lambda step: sample_noise(seed, f"sample step {step}", indices, shape).to(device)
