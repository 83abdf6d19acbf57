"""Images from a denoiser, each a function of (seed, index), up to floating-point order."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from progdistill.diffusion.guidance import w_from_guidance_scale
from progdistill.diffusion.names import SamplerName
from progdistill.diffusion.noise import sample_noise
from progdistill.diffusion.prediction import clipped
from progdistill.diffusion.samplers import SAMPLERS
from progdistill.errors import NonFiniteError
from progdistill.evaluation.latents import Surroundings
from progdistill.models.conditioning import Conditioning
from progdistill.models.denoiser import Denoiser

UInt8Images = UInt8[Tensor, "batch channels height width"]


def generate(
    denoiser: Denoiser,
    sampler: SamplerName,
    sampling_steps: int,
    *,
    indices: Sequence[int],
    seed: int,
    batch_size: int,
    gamma: float | None = None,
    guidance_scale: float | None = None,
    clip: bool = True,
    class_label: int | None = None,
    class_counts: tuple[int, ...] | None = None,
    surroundings: Surroundings | None = None,
    device: torch.device | str = "cpu",
    name: str = "this model",
) -> Iterator[UInt8Images]:
    """Generate the samples `indices`, in order.

    Sample i starts from noise of (seed, i) and, with a stochastic sampler, draws noise of (seed, step, i).
    Equal indices give equal images, bit for bit at equal batch shape, otherwise up to floating-point order.

    Args:
        denoiser: The model; it is moved to `device`.
        sampler: Name of the sampler.
        sampling_steps: Steps from noise to t = 0, along the model's grid.
        indices: Numbers of the samples, each ≥ 0.
        seed: Seed of the noise.
        batch_size: Most images sampled at once. Batches are halved if the device runs out of memory.
        gamma: Log-scale position of a stochastic sampler's variance between its bounds, in [0, 1].
        guidance_scale: At least 1; 1 or None: no guidance.
        clip: Whether to clip x̂ to [−1, 1] at every step; latents never are.
        class_label: Class of all samples. Default: as `labels_of` distributes the classes.
        class_counts: Proportions of the classes.
        surroundings: Of a latent model: its prompts, and how latents become images.
        device: Where to sample.
        name: Name of the model in error messages.

    Yields:
        Batches of uint8 images [batch, channels, height, width] in 0..255, on `device`.

    Raises:
        NonFiniteError: Samples are not finite.
        UsageError: The model's grid has no such number of steps.
        torch.OutOfMemoryError: Memory does not suffice for one image.
    """
    # A model in training keeps the memory format that it is trained in.
    if not denoiser.training and torch.device(device).type != "tpu":
        nn.Module.to(denoiser, memory_format=torch.channels_last)
    denoiser = denoiser.to(device).eval()
    network, times = denoiser.config.network, denoiser.config.grid.times(sampling_steps)
    shape = network.sample_shape
    options = {} if gamma is None else {"gamma": gamma}

    def draw(batch: Sequence[int]) -> UInt8Images:
        def noise(step: int) -> Tensor:
            return sample_noise(seed, f"sample step {step}", batch, shape).to(device)

        with torch.inference_mode():
            z = sample_noise(seed, "sample", batch, shape).to(device)
            labels = labels_of(batch, network.num_classes, class_label, class_counts)
            conditioning: Conditioning | None = None if labels is None else {"label": labels.to(device)}
            if surroundings is not None and surroundings.prompts is not None:
                conditioning = surroundings.rows(batch)
            without = None if surroundings is None else surroundings.unconditional
            velocity = denoiser.bind(conditioning, w_from_guidance_scale(guidance_scale), without)
            bounded = clip and surroundings is None
            x = SAMPLERS[sampler](clipped(velocity) if bounded else velocity, z, times, noise=noise, **options)
            if surroundings is not None:
                x = surroundings.decode(x)
            _require_finite(x, f"{name} produced", batch, f"with {sampler} × {sampling_steps}")
            return to_uint8(x)

    return in_batches(draw, indices, batch_size)


def _require_finite(x: Tensor, what: str, batch: Sequence[int], how: str) -> None:
    if not x.isfinite().all():
        raise NonFiniteError(
            f"{what} values that are not finite (NaN or infinite) in samples {batch[0]} to {batch[-1]} {how}: check its"
            " weights for such values, and use another checkpoint (`progdistill checkpoints list`) or train or import"
            " it again"
        )


def in_batches(
    draw: Callable[[Sequence[int]], UInt8Images], indices: Sequence[int], batch_size: int
) -> Iterator[UInt8Images]:
    """Yield `draw` of successive batches, halving them from where memory does not suffice."""
    start = 0
    while start < len(indices):
        batch = indices[start : start + batch_size]
        images = _draw_if_memory_suffices(draw, batch)
        if images is None:
            batch_size = max(len(batch) // 2, 1)
        else:
            start += len(batch)
            yield images


def _draw_if_memory_suffices(draw: Callable[[Sequence[int]], UInt8Images], batch: Sequence[int]) -> UInt8Images | None:
    """A separate function, so that the tensors of a failed attempt are freed when it returns."""
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
    """The class of each sample, in 0..num_classes − 1; None for a model without classes.

    It is `class_label` if that is given, follows the proportions of `class_counts` if those are given
    (`proportional_classes`), and is index mod num_classes otherwise.
    """
    if num_classes == 0:
        return None
    numbers = np.array(indices, np.int64)
    if class_label is not None:
        return torch.full((len(numbers),), class_label)
    classes = numbers % num_classes if class_counts is None else proportional_classes(numbers, class_counts)
    return torch.from_numpy(classes)


def proportional_classes(indices: NDArray[np.int64], counts: tuple[int, ...]) -> NDArray[np.int64]:
    """The class of each sample index ≥ 0 for data with `counts` images of each class, not all 0.

    A class is a function of its index alone. Whatever the number of samples n, class k gets n·counts[k]/Σ of
    them, rounded as Webster's method apportions seats (to within a window of as many samples as there are
    classes, which are in the order of classes). Equal counts give index mod classes.
    """
    if len(indices) == 0:
        return np.empty(0, np.int64)
    windows = int(indices.max()) // len(counts) + 1
    return _first_classes(counts, len(counts) << (windows - 1).bit_length())[indices]


@lru_cache(maxsize=4)
def _first_classes(counts: tuple[int, ...], length: int) -> NDArray[np.int64]:
    """The classes of the first `length` samples, whole windows of them.

    The j-th image of class k comes at (2j + 1) / counts[k]; up to the time (2·length + classes) / Σ counts
    there are at least `length` of them.
    """
    images = np.array(counts, np.float64)
    until = (2 * length + len(counts)) / images.sum()
    of_class = np.floor((until * images + 1) / 2).astype(np.int64)
    classes = np.repeat(np.arange(len(counts)), of_class)
    place = np.arange(len(classes)) - np.repeat(np.cumsum(of_class) - of_class, of_class)
    order = np.argsort((2 * place + 1) / images[classes], kind="stable")[:length]
    sequence = np.sort(classes[order].reshape(-1, len(counts)), axis=1).ravel()
    sequence.flags.writeable = False
    return sequence


def to_uint8(x: Float[Tensor, "batch channels height width"]) -> UInt8Images:
    """Map [−1, 1] to 0..255 as (x + 1)·127.5, rounded and clamped."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
