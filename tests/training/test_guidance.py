"""Label dropout, and guidance distilled into an input."""

import pytest
import torch
from torch import Tensor

from progdistill.data.dataset import DatasetInfo
from progdistill.data.loader import TrainingLoader
from progdistill.diffusion.names import LossWeight
from progdistill.diffusion.schedule import diffuse
from progdistill.errors import UsageError
from progdistill.models.conditioning import Conditioning
from progdistill.models.denoiser import Denoiser, build_denoiser, guidance_parameter, student_of
from progdistill.training.config import LearningRateSchedule
from progdistill.training.guidance import GuidanceRange, parse_guidance_scale
from progdistill.training.loop import train
from progdistill.training.objective import BaseObjective, DistillationObjective, GuidanceObjective, draw_w
from progdistill.training.random import BatchRandom
from tests.training.conftest import MakeTask, settings, tiny

RANGE = GuidanceRange(lowest=1, highest=4)
SNR_PLUS_ONE = LossWeight.SNR_PLUS_ONE


class Listening(Denoiser):
    """Remembers the labels and w it is evaluated with."""

    heard: list[tuple[Tensor | None, Tensor | None]]

    def forward(
        self, z: Tensor, t: Tensor, conditioning: Conditioning | None = None, w: Tensor | None = None
    ) -> Tensor:
        self.heard.append((None if conditioning is None else conditioning["label"], w))
        return super().forward(z, t, conditioning, w)


def listening(denoiser: Denoiser) -> Listening:
    twin = Listening(denoiser.config, denoiser.network)
    twin.heard = []
    return twin


def test_the_stated_share_of_labels_is_dropped() -> None:
    model = listening(build_denoiser(tiny(label_dropout=True), seed=0))
    labels = torch.arange(1000) % 10
    draws = BatchRandom(torch.Generator().manual_seed(1), 1000)
    BaseObjective(SNR_PLUS_ONE, 0.25)(model, model, torch.zeros(1000, 1, 8, 8), {"label": labels}, draws)
    (seen, _), *_ = model.heard
    assert seen is not None
    dropped = seen == 10
    assert 200 < int(dropped.sum()) < 300
    assert torch.equal(seen[~dropped], labels[~dropped])


def test_without_dropout_labels_arrive_as_they_are() -> None:
    model = listening(build_denoiser(tiny(label_dropout=True), seed=0))
    labels = torch.arange(100) % 10
    draws = BatchRandom(torch.Generator().manual_seed(1), 100)
    BaseObjective(SNR_PLUS_ONE)(model, model, torch.zeros(100, 1, 8, 8), {"label": labels}, draws)
    assert model.heard[0][0] is labels


def test_w_is_uniform_on_the_range() -> None:
    drawn = draw_w(GuidanceRange(lowest=2, highest=4), BatchRandom(torch.Generator().manual_seed(1), 4000))
    assert drawn.min() >= 1 and drawn.max() <= 3
    assert abs(drawn.mean() - 2) < 0.03 and abs(drawn.std() - 2 / 12**0.5) < 0.02


@pytest.fixture(scope="module")
def guided_base(digits: DatasetInfo) -> Denoiser:
    """A base model that knows classes and no class, trained without the loop."""
    model = build_denoiser(tiny(label_dropout=True, base_channels=16), seed=0)
    objective = BaseObjective(SNR_PLUS_ONE, 0.2)
    loader = TrainingLoader(digits, batch_size=32, seed=1, flip=False)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for update in range(150):
        batch = loader.batch(update)
        draws = BatchRandom(torch.Generator().manual_seed(update), 32)
        optimizer.zero_grad()
        objective(model, model, batch.x, batch.conditioning, draws).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def guided_student(teacher: Denoiser) -> Denoiser:
    network = teacher.config.network.model_copy(update={"guidance_input": True})
    return student_of(teacher, teacher.config.model_copy(update={"network": network}))


def error_at(w: float, student: Denoiser, teacher: Denoiser, digits: DatasetInfo) -> tuple[float, float]:
    """Mean squared error of the student's velocity at w, and that of one that ignores w."""
    batch = TrainingLoader(digits, batch_size=200, seed=8, flip=False).batch(0)
    draws = BatchRandom(torch.Generator().manual_seed(8), 200)
    t = draws.integers(1, 8) / 8
    z = diffuse(batch.x, draws.noise_like(batch.x), t)
    with torch.no_grad():
        wanted = teacher.bind(batch.conditioning, w)(z, t)
        found = student.eval().bind(batch.conditioning, w)(z, t)
        ignorant = teacher.bind(batch.conditioning, 1.5)(z, t)
    return float((found - wanted).square().mean()), float((ignorant - wanted).square().mean())


@pytest.mark.slow
def test_a_guided_student_answers_at_once_what_its_teacher_is_asked_twice(
    guided_base: Denoiser, make_task: MakeTask, digits: DatasetInfo
) -> None:
    student = guided_student(guided_base)
    objective = GuidanceObjective(guided_base, 8, SNR_PLUS_ONE, RANGE)
    chosen = settings(200, batch_size=32, learning_rate_schedule=LearningRateSchedule.LINEAR_TO_ZERO)
    train(make_task(objective, chosen, new_parameters=frozenset({guidance_parameter(student.config)})), student, None)
    errors = [error_at(w, student, guided_base, digits) for w in (0.0, 3.0)]
    assert all(error < 0.8 * of_the_ignorant for error, of_the_ignorant in errors), errors


def test_the_name_of_the_new_parameter_is_the_networks(guided_base: Denoiser) -> None:
    student = guided_student(guided_base)
    assert set(student.state_dict()) - set(guided_base.state_dict()) == {guidance_parameter(student.config)}


def test_teacher_and_student_get_the_same_w(guided_base: Denoiser) -> None:
    teacher = guided_student(guided_base)
    student = listening(student_of(teacher, teacher.config))
    heard_by_teacher = listening(teacher)
    objective = DistillationObjective(heard_by_teacher, 4, SNR_PLUS_ONE, RANGE)
    labels = torch.arange(20) % 10
    draws = BatchRandom(torch.Generator().manual_seed(1), 20)
    objective(student, student, torch.zeros(20, 1, 8, 8), {"label": labels}, draws)
    ((_, given),) = student.heard
    assert given is not None and 0 <= given.min() < given.max() <= 3
    assert len(heard_by_teacher.heard) == 2
    for seen, w in heard_by_teacher.heard:
        assert seen is labels and w is not None and torch.equal(w, given)


def test_a_single_number_is_a_range_of_one_scale() -> None:
    assert parse_guidance_scale("2") == parse_guidance_scale("2:2") == GuidanceRange(lowest=2, highest=2)
    assert str(parse_guidance_scale("1:5")) == "1:5" and 5.0 in parse_guidance_scale("1:5")


@pytest.mark.parametrize("text", ["5:1", "0:4", "1:inf", "a:b", "nan:2", "1:2:3", ":", "1:"])
def test_what_is_no_range_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(UsageError, match="1:5") as refused:
        parse_guidance_scale(text)
    assert repr(text) in str(refused.value)
