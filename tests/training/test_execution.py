"""Effects of precision, micro-batches, activation checkpointing and compilation on the numbers."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from progdistill.data.dataset import DatasetInfo
from progdistill.data.loader import TrainingLoader
from progdistill.diffusion.names import LossWeight, PredictionType
from progdistill.errors import DeviceMemoryError
from progdistill.models.denoiser import Denoiser, build_denoiser, student_of
from progdistill.training.config import Precision
from progdistill.training.execution import Execution, compile_blocks, place, recompute_activations
from progdistill.training.gradients import accumulate
from progdistill.training.guidance import GuidanceRange
from progdistill.training.loop import train
from progdistill.training.objective import BaseObjective, DistillationObjective, GuidanceObjective, Objective
from progdistill.training.random import BatchRandom
from tests.training.conftest import MakeTask, settings, tiny

CPU, WEIGHT = torch.device("cpu"), LossWeight.SNR_PLUS_ONE
CONFIG = tiny(label_dropout=True, attention_resolutions=(4,))


def untrained(seed: int) -> Denoiser:
    """All weights random: in a network as it begins, most gradients are zero."""
    model = build_denoiser(CONFIG, seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return model


def gradient(
    model: Denoiser, objective: Objective, digits: DatasetInfo, micro_batch_size: int | None = None
) -> tuple[float, list[Tensor]]:
    """Loss and gradient on 16 images."""
    batch = TrainingLoader(digits, batch_size=16, seed=1, flip=False).batch(0)
    draws = BatchRandom(torch.Generator().manual_seed(1), 16)
    model.zero_grad()
    loss = accumulate(objective, model, model, batch.x, batch.conditioning, draws, micro_batch_size)
    return float(loss), [p.grad.clone() for p in model.parameters() if p.grad is not None]


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "base": lambda: BaseObjective(WEIGHT, 0.3),
    "distill": lambda: DistillationObjective(untrained(2), 8, WEIGHT),
    "guide": lambda: GuidanceObjective(untrained(2), 8, WEIGHT, GuidanceRange(lowest=1, highest=5)),
}


def assert_same(found: tuple[float, list[Tensor]], wanted: tuple[float, list[Tensor]]) -> None:
    assert found[0] == pytest.approx(wanted[0], rel=1e-5)
    for one, other in zip(found[1], wanted[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(OBJECTIVES))
@pytest.mark.parametrize("micro_batch_size", [1, 5, 8])
def test_micro_batches_give_the_gradient_of_the_whole(micro_batch_size: int, kind: str, digits: DatasetInfo) -> None:
    objective, model = OBJECTIVES[kind](), untrained(1)
    whole = gradient(model, objective, digits)
    assert_same(gradient(model, objective, digits, micro_batch_size), whole)


@pytest.mark.parametrize("kind", sorted(OBJECTIVES))
def test_channels_last_gives_the_same_gradient(kind: str, digits: DatasetInfo) -> None:
    contiguous = gradient(untrained(1), OBJECTIVES[kind](), digits)
    placed = place(untrained(1), Execution(channels_last=True), CPU)
    assert placed.network.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert_same(gradient(placed, OBJECTIVES[kind](), digits), contiguous)


def test_parts_of_a_batch_draw_its_rows() -> None:
    image = torch.empty(6, 1, 8, 8)
    whole = BatchRandom(torch.Generator().manual_seed(5), 12, 1, 2)
    wanted = [whole.uniform(), whole.integers(1, 4), whole.noise_like(image)]
    again = BatchRandom(torch.Generator().manual_seed(5), 12, 1, 2)
    parts = []
    for rows in (slice(0, 4), slice(4, 6)):
        part = again.slice(rows.start, rows.stop)
        parts.append([part.uniform(), part.integers(1, 4), part.noise_like(image[rows])])
    for one, two, expected in zip(*parts, wanted, strict=True):
        assert torch.equal(torch.cat((one, two)), expected)


def test_recomputing_activations_changes_no_gradient(digits: DatasetInfo) -> None:
    objective, model = OBJECTIVES["base"](), untrained(1)
    wanted = gradient(model, objective, digits)
    recomputing = place(untrained(1), Execution(activation_checkpointing=True), CPU)
    found = gradient(recomputing, objective, digits)
    assert found[0] == wanted[0] and all(map(torch.equal, found[1], wanted[1]))


@pytest.mark.parametrize("kind", sorted(OBJECTIVES))
def test_in_bfloat16_the_network_alone_is_rounded(kind: str, digits: DatasetInfo) -> None:
    objective, seen = OBJECTIVES[kind](), set()
    exact, model = untrained(1), place(untrained(1), Execution(precision=Precision.BFLOAT16), CPU)
    model.network.conv_in.register_forward_hook(lambda *call: seen.add(call[2].dtype))
    model.register_forward_hook(lambda *call: seen.add(call[2].dtype))
    loss, gradients = gradient(model, objective, digits)
    assert seen == {torch.bfloat16, torch.float32}
    assert all(p.dtype == torch.float32 for p in (*model.parameters(), *gradients))
    wanted, directions = gradient(exact, objective, digits)
    assert loss != wanted and loss == pytest.approx(wanted, rel=0.02)
    flat, expected = (torch.cat([each.flatten() for each in some]) for some in (gradients, directions))
    assert nn.functional.cosine_similarity(flat, expected, dim=0) > 0.999


def test_a_teacher_in_bfloat16_gives_a_float32_target(digits: DatasetInfo) -> None:
    teacher = place(untrained(2), Execution(precision=Precision.BFLOAT16), CPU)
    batch = TrainingLoader(digits, batch_size=8, seed=1, flip=False).batch(0)
    velocity = teacher.bind(batch.conditioning)(batch.x, torch.full((8,), 0.5))
    assert velocity.dtype == torch.float32
    exact = untrained(2).bind(batch.conditioning)(batch.x, torch.full((8,), 0.5))
    largest = float(exact.detach().abs().max())
    assert 0 < float((velocity - exact).detach().abs().max()) < 0.05 * largest


def test_a_student_in_bfloat16_distills(make_task: MakeTask) -> None:
    teacher = untrained(2)
    execution = Execution(precision=Precision.BFLOAT16)
    student = place(
        student_of(teacher, tiny(PredictionType.V, label_dropout=True, attention_resolutions=(4,))), execution, CPU
    )
    objective = DistillationObjective(place(teacher, execution, CPU), 2, WEIGHT)
    trained = train(make_task(objective, settings(20), execution=execution._replace(micro_batch_size=8)), student, None)
    first, last = (sum(loss for _, loss in part) for part in (trained.loss_curve[:5], trained.loss_curve[-5:]))
    assert last < first
    assert all(weight.dtype == torch.float32 for weight in trained.weights.values())


def test_too_little_memory_names_the_settings_to_change(make_task: MakeTask) -> None:
    class Full(BaseObjective):
        def __call__(self, *arguments: object) -> Tensor:  # type: ignore[override]
            raise torch.OutOfMemoryError("tried to allocate 80 GiB")

    task = make_task(Full(WEIGHT), settings(2), execution=Execution(micro_batch_size=4))
    with pytest.raises(DeviceMemoryError, match=r"4 images.*80 GiB.*compute\.micro_batch_size"):
        train(task, untrained(1), None)


def test_a_compiled_network_keeps_the_names_of_its_weights() -> None:
    compiled = place(untrained(1), Execution(compile=True), CPU)
    assert compiled.state_dict().keys() == untrained(1).state_dict().keys()


@pytest.mark.slow
def test_compiled_blocks_keep_their_numbers(digits: DatasetInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def kept_as_they_are(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    # What torch makes of a graph takes a compiler minutes; here only that each block is one.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=kept_as_they_are))
    config = tiny(label_dropout=True, attention_resolutions=(8, 4))
    model, plain = build_denoiser(config, seed=1), build_denoiser(config, seed=1)
    compile_blocks(model)
    recompute_activations(model)
    assert_same(gradient(model, BaseObjective(WEIGHT), digits), gradient(plain, BaseObjective(WEIGHT), digits))
    blocks = model.ask.blocks(model.network)
    assert len(blocks) > 8 and len(graphs) >= 8
    assert all(isinstance(block.forward, partial) for block in blocks)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_compiled_network_keeps_its_numbers(digits: DatasetInfo) -> None:
    config = tiny(channel_multipliers=(1,), label_dropout=True)
    objective, plain = BaseObjective(WEIGHT), build_denoiser(config, seed=1)
    compiled = place(build_denoiser(config, seed=1), Execution(compile=True), CPU)
    assert_same(gradient(compiled, objective, digits), gradient(plain, objective, digits))
