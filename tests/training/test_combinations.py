"""Every allowed combination of prediction type and loss weight trains and distills."""

from collections.abc import Callable
from itertools import product

import pytest
import torch

from progdistill.data.dataset import DatasetInfo
from progdistill.data.loader import TrainingLoader
from progdistill.diffusion.names import LossWeight, PredictionType, check_combination
from progdistill.errors import UsageError
from progdistill.models.denoiser import Denoiser, build_denoiser, student_of
from progdistill.training.loop import train
from progdistill.training.objective import BaseObjective, DistillationObjective, Objective
from progdistill.training.random import BatchRandom
from tests.training.conftest import MakeTask, settings, tiny

MakeTeacher = Callable[[PredictionType], Denoiser]


def allowed(distilling: bool) -> list[tuple[PredictionType, LossWeight]]:
    found = []
    for prediction, weight in product(PredictionType, LossWeight):
        try:
            check_combination(prediction, weight, distilling)
        except UsageError:
            continue
        found.append((prediction, weight))
    return found


def loss_of(objective: Objective, model: Denoiser, digits: DatasetInfo) -> float:
    """The loss on images, times and noise that are the same for every model."""
    batch = TrainingLoader(digits, batch_size=64, seed=9, flip=False).batch(0)
    draws = BatchRandom(torch.Generator().manual_seed(9), 64)
    with torch.no_grad():
        return float(objective(model.eval(), model, batch.x, batch.conditioning, draws))


@pytest.fixture
def make_teacher(make_task: MakeTask) -> MakeTeacher:
    """A base model that has learned something of digits."""

    def make(prediction: PredictionType) -> Denoiser:
        model = build_denoiser(tiny(prediction), seed=0)
        train(make_task(BaseObjective(LossWeight.SNR_PLUS_ONE), settings(40)), model, None)
        return model

    return make


def is_finite(model: Denoiser) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())


@pytest.mark.parametrize(("prediction", "weight"), allowed(distilling=False))
def test_a_base_model_trains(
    prediction: PredictionType, weight: LossWeight, make_task: MakeTask, digits: DatasetInfo
) -> None:
    model, objective = build_denoiser(tiny(prediction), seed=0), BaseObjective(weight)
    before = loss_of(objective, model, digits)
    trained = train(make_task(objective, settings(30, loss_weight=weight)), model, None)
    assert loss_of(objective, model, digits) < 0.9 * before
    assert is_finite(model) and len(trained.loss_curve) == 30


@pytest.mark.parametrize(("prediction", "weight"), allowed(distilling=True))
def test_a_student_distills(
    prediction: PredictionType, weight: LossWeight, make_teacher: MakeTeacher, make_task: MakeTask, digits: DatasetInfo
) -> None:
    teacher = make_teacher(prediction)
    objective = DistillationObjective(teacher, 2, weight)
    student = student_of(teacher, teacher.config)
    before = loss_of(objective, student, digits)
    train(make_task(objective, settings(30, loss_weight=weight)), student, None)
    assert loss_of(objective, student, digits) < before
    assert is_finite(student)


@pytest.mark.parametrize("prediction", [PredictionType.V, PredictionType.X, PredictionType.X_EPS])
def test_a_teacher_that_predicts_eps_has_students_that_predict_otherwise(
    prediction: PredictionType, make_teacher: MakeTeacher, make_task: MakeTask, digits: DatasetInfo
) -> None:
    teacher = make_teacher(PredictionType.EPS)
    objective = DistillationObjective(teacher, 4, LossWeight.TRUNCATED_SNR)
    student = student_of(teacher, tiny(prediction))
    before = loss_of(objective, student, digits)
    train(make_task(objective, settings(30)), student, None)
    assert loss_of(objective, student, digits) < before
    assert is_finite(student)


def test_a_teacher_stays_as_it_is(make_teacher: MakeTeacher, make_task: MakeTask) -> None:
    teacher = make_teacher(PredictionType.V)
    weights = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student = student_of(teacher, teacher.config)
    train(make_task(DistillationObjective(teacher, 2, LossWeight.SNR_PLUS_ONE), settings(3)), student, None)
    assert all(torch.equal(teacher.state_dict()[name], tensor) for name, tensor in weights.items())
    assert not torch.equal(teacher.network.conv_in.weight, student.network.conv_in.weight)
