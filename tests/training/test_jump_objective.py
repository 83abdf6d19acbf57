"""Students that jump: what they are taught at, by whom, and that a stopped training goes on to the same weights."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from progdistill.diffusion.grid import AngleGrid, FlowGrid
from progdistill.diffusion.names import LossName, LossWeight, PredictionType, TeacherSolver
from progdistill.diffusion.target import jump_target
from progdistill.errors import Interrupted
from progdistill.models.conditioning import Conditioning
from progdistill.models.denoiser import Denoiser, build_denoiser, student_of
from progdistill.store.base import Store
from progdistill.training.guidance import GuidanceRange
from progdistill.training.jump_objective import Annealing, JumpObjective, jumps
from progdistill.training.loop import Trained, train
from progdistill.training.random import BatchRandom
from progdistill.training.self_teacher import SelfTeacher
from progdistill.training.snapshots import Snapshot, latest_snapshot
from tests.training.conftest import JOB, MakeTask, settings, tiny

LABELS: Conditioning = {"label": torch.arange(16) % 10}
X = torch.linspace(-1, 1, 16 * 64).reshape(16, 1, 8, 8)


def pair(prediction: PredictionType = PredictionType.V, **network: Any) -> tuple[Denoiser, Denoiser]:
    """A teacher, and a student that starts as a copy of it but has moved a little."""
    teacher = build_denoiser(tiny(PredictionType.V, **network), seed=0)
    student = student_of(teacher, tiny(prediction, **network))
    with torch.no_grad():
        for index, parameter in enumerate(student.parameters()):
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    return teacher, student


def of(teacher: Denoiser, self_teacher: SelfTeacher | None, **changes: Any) -> JumpObjective:
    facts: dict[str, Any] = {"guidance_scale": None, "grid": AngleGrid(), "factor": 8} | changes
    return JumpObjective(teacher, 2, LossWeight.SNR_PLUS_ONE, self_teacher=self_teacher, **facts)


def loss_of(objective: JumpObjective, student: Denoiser, update: int = 0) -> Tensor:
    draws = BatchRandom(torch.Generator().manual_seed(5), 16, update=update)
    return objective(student, student, X, LABELS, draws)


@pytest.mark.parametrize("grid", [AngleGrid(), FlowGrid(shift=3)])
def test_every_time_of_the_teacher_leads_to_the_end_of_its_students_step(grid: AngleGrid | FlowGrid) -> None:
    rows, path, ends = jumps(grid, 2, 4), grid.times(8), grid.times(2)
    assert rows.flip(0)[:, :2].tolist() == [list(step) for step in pairwise(path)]
    assert rows.flip(0)[:, 2].tolist() == [ends[1]] * 4 + [ends[2]] * 4


@pytest.mark.parametrize("prediction", [PredictionType.V, PredictionType.X, PredictionType.X_EPS])
def test_the_teacher_steps_and_the_students_average_jumps(prediction: PredictionType) -> None:
    teacher, student = pair(prediction)
    self_teacher = SelfTeacher(student, 0.5)
    with torch.no_grad():
        for average in self_teacher.average:
            average.mul_(0.9)
    averaged = student_of(teacher, student.config)
    averaged.load_state_dict(dict(zip(dict(student.named_parameters()), self_teacher.average, strict=True)))
    found = loss_of(of(teacher, self_teacher), student)

    draws = BatchRandom(torch.Generator().manual_seed(5), 16)
    times = jumps(AngleGrid(), 2, 8).float()[draws.integers(1, 16) - 1]
    noise, t = draws.noise_like(X), times[:, 0]
    angle = (t * torch.pi / 2)[:, None, None, None]
    z = angle.cos() * X + angle.sin() * noise
    target = jump_target(teacher.velocity(z, t, LABELS).detach(), averaged.bind(LABELS), z, times)
    expected = (student.velocity(z, t, LABELS) - target).square().mean()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_students_weights_return_and_the_average_follows() -> None:
    _, student = pair()
    before = [p.detach().clone() for p in student.parameters()]
    self_teacher = SelfTeacher(student, 0.75)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    self_teacher.follow()
    own = [p.detach().clone() for p in student.parameters()]
    with pytest.raises(ZeroDivisionError), self_teacher.in_place():
        for parameter, start in zip(student.parameters(), before, strict=True):
            torch.testing.assert_close(parameter.detach(), start + 0.25)
        _ = 1 / 0
    assert all(torch.equal(p, kept) for p, kept in zip(student.parameters(), own, strict=True))


def test_without_an_average_the_student_itself_jumps() -> None:
    teacher, student = pair()
    exact = SelfTeacher(student, 0.0)
    assert torch.equal(loss_of(of(teacher, None), student), loss_of(of(teacher, exact), student))


def test_the_teachers_steps_double_while_the_stage_trains() -> None:
    teacher, student = pair()
    annealed = of(teacher, None, annealing=Annealing(2, 90))
    losses = [loss_of(annealed, student, update) for update in (0, 29, 30, 59, 60, 89)]
    fixed = [loss_of(of(teacher, None, factor=factor), student) for factor in (2, 2, 4, 4, 8, 8)]
    assert torch.equal(torch.stack(losses), torch.stack(fixed))


@pytest.mark.parametrize("solver", TeacherSolver)
@pytest.mark.parametrize("loss", LossName)
def test_every_solver_and_loss_gives_a_gradient(solver: TeacherSolver, loss: LossName) -> None:
    teacher, student = pair()
    eta = 0.75 if solver is TeacherSolver.ADDIM else 0.0
    loss_of(of(teacher, None, solver=solver, loss=loss, addim_eta=eta), student).backward()
    gradients = [p.grad for p in student.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients) and any(g.any() for g in gradients)
    assert all(p.grad is None for p in teacher.parameters())


def test_teacher_and_both_students_get_the_same_guidance(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, student = pair(guidance_input=True)
    asked: list[Tensor] = []
    plain = Denoiser.forward

    def forward(self: Denoiser, z: Tensor, t: Tensor, conditioning: Conditioning, w: Tensor) -> Tensor:
        asked.append(w)
        return plain(self, z, t, conditioning, w)

    monkeypatch.setattr(Denoiser, "forward", forward)
    loss_of(of(teacher, SelfTeacher(student, 0.5), guidance_scale=GuidanceRange(lowest=1, highest=5)), student)
    assert len(asked) == 3 and all(torch.equal(w, asked[0]) for w in asked) and asked[0].unique().numel() == 16


@pytest.mark.parametrize("annealed", [False, True])
def test_a_stopped_training_goes_on_to_the_very_same_weights(annealed: bool, make_task: MakeTask, store: Store) -> None:
    chosen = settings(8, ema_decay=0.9)

    def trained(start: Snapshot | None, stop_after: int | None = None) -> Trained:
        teacher, student = pair()
        self_teacher = None if annealed else SelfTeacher(student, 0.5)
        annealing = Annealing(2, chosen.updates) if annealed else None
        objective = of(teacher, self_teacher, annealing=annealing)
        calls = iter(range(1, 100))
        stop = lambda: next(calls) == stop_after  # noqa: E731
        return train(make_task(objective, chosen, should_stop=stop, self_teacher=self_teacher), student, start)

    unbroken = trained(None)
    with pytest.raises(Interrupted):
        trained(None, stop_after=5)
    again = trained(latest_snapshot(store, JOB))
    assert again.loss_curve == unbroken.loss_curve
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in unbroken.weights.items())
