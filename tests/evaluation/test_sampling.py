"""A sample depends on its index and the seed, and on nothing else."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch._dynamo.utils
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from progdistill.diffusion.names import SamplerName
from progdistill.evaluation.sampling import generate, in_batches, labels_of, to_uint8
from progdistill.models.denoiser import Denoiser
from progdistill.models.load import load_denoiser
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.store.base import Store


@pytest.fixture(scope="module")
def denoiser(evaluated_store: Store, base: CheckpointManifest) -> Denoiser:
    return load_denoiser(evaluated_store, base)


def _draw(denoiser: Denoiser, indices: range, batch_size: int, **options: object) -> Tensor:
    sampler = options.pop("sampler", SamplerName.ANCESTRAL)
    batches = generate(denoiser, sampler, 3, indices=indices, seed=5, batch_size=batch_size, **options)  # type: ignore[arg-type]
    return torch.cat(list(batches))


def test_batch_size_changes_no_sample(denoiser: Denoiser) -> None:
    """Up to one gray level, for floating-point order may differ."""
    whole, parts = _draw(denoiser, range(12), 12), _draw(denoiser, range(12), 5)
    assert (whole.int() - parts.int()).abs().max() <= 1


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("sampler", [SamplerName.DDIM, SamplerName.ANCESTRAL])
def test_a_compiled_network_draws_the_same_samples(
    sampler: SamplerName, denoiser: Denoiser, evaluated_store: Store, base: CheckpointManifest
) -> None:
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    compiled = _draw(load_denoiser(evaluated_store, base, compiled=True), range(12), 6, sampler=sampler)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    plain = _draw(denoiser, range(12), 6, sampler=sampler)
    assert (compiled.int() - plain.int()).abs().max() <= 1


def test_ranks_that_split_the_indices_draw_the_same_images(denoiser: Denoiser) -> None:
    whole = _draw(denoiser, range(12), 4)
    world_size = [_draw(denoiser, range(rank * 4, rank * 4 + 4), 4) for rank in range(3)]
    assert torch.equal(torch.cat(world_size), whole)


def test_another_seed_or_index_gives_another_image(denoiser: Denoiser) -> None:
    first = _draw(denoiser, range(4), 4)
    assert not torch.equal(first, _draw(denoiser, range(10, 14), 4))
    other = next(generate(denoiser, SamplerName.ANCESTRAL, 3, indices=range(4), seed=6, batch_size=4))
    assert not torch.equal(first, other)


def test_step_noise_matters_to_ancestral_sampling_and_not_to_ddim(denoiser: Denoiser) -> None:
    low, high = (_draw(denoiser, range(4), 4, gamma=gamma) for gamma in (0.0, 1.0))
    assert not torch.equal(low, high)
    ddim = [_draw(denoiser, range(4), 4, sampler=SamplerName.DDIM) for _ in range(2)]
    assert torch.equal(*ddim)


def test_sample_i_shows_class_i_modulo_the_classes() -> None:
    labels = labels_of(range(8, 13), 10)
    assert labels is not None
    assert labels.tolist() == [8, 9, 0, 1, 2]
    assert labels_of(range(3), 0) is None
    alike = labels_of(range(8, 13), 10, class_counts=(7,) * 10)
    assert alike is not None and torch.equal(alike, labels)
    fixed = labels_of(range(3), 10, class_label=7)
    assert fixed is not None
    assert fixed.tolist() == [7, 7, 7]


def test_images_leave_rounded_and_clamped() -> None:
    x = torch.tensor([-2.0, -1.0, 0.0, 1 / 127.5, 1.0, 3.0]).view(1, 1, 1, 6)
    assert to_uint8(x).flatten().tolist() == [0, 0, 128, 128, 255, 255]


def _drawer(room: int, sizes: list[int]) -> Callable[[Sequence[int]], Tensor]:
    def draw(batch: Sequence[int]) -> Tensor:
        sizes.append(len(batch))
        if len(batch) > room:
            raise torch.OutOfMemoryError("too many at once")
        return torch.tensor(batch, dtype=torch.uint8).view(-1, 1, 1, 1)

    return draw


def test_batches_shrink_to_the_memory_that_there_is() -> None:
    sizes: list[int] = []
    drawn = torch.cat(list(in_batches(_drawer(3, sizes), range(10), 8)))
    assert drawn.flatten().tolist() == list(range(10))
    assert sizes == [8, 4, 2, 2, 2, 2, 2]


def test_a_single_image_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        list(in_batches(_drawer(0, []), range(4), 4))


@given(st.lists(st.integers(0, 300), min_size=1, max_size=12).filter(any), st.integers(0, 400))
def test_any_number_of_samples_has_the_shares_of_the_classes(counts: list[int], windows: int) -> None:
    samples = windows * len(counts)
    labels = labels_of(range(samples), len(counts), class_counts=tuple(counts))
    assert labels is not None
    shares = samples * np.array(counts) / sum(counts)
    assert np.abs(np.bincount(labels.numpy(), minlength=len(counts)) - shares).max(initial=0) < 2


def test_a_label_is_a_function_of_its_index() -> None:
    counts = (55, *(5,) * 9)
    whole = labels_of(range(200), 10, class_counts=counts)
    some = labels_of([150, 3, 77], 10, class_counts=counts)
    assert whole is not None and some is not None
    assert torch.equal(some, whole[[150, 3, 77]])
    assert torch.bincount(whole[:100]).tolist() == list(counts)
