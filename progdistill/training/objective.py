"""Training objectives: Algorithm 1 (a base model), Algorithm 2 (a student) and guidance."""

from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from progdistill.diffusion.grid import AngleGrid, Grid
from progdistill.diffusion.guidance import guidance_target, guided
from progdistill.diffusion.loss import weighted_loss
from progdistill.diffusion.names import LossName, LossWeight, TeacherSolver
from progdistill.diffusion.prediction import Velocity, velocity_from_x_eps
from progdistill.diffusion.schedule import diffuse
from progdistill.diffusion.target import distillation_target, target_along
from progdistill.diffusion.teacher_step import heun_velocity
from progdistill.diffusion.trajectory import starts_of_steps, state_on_trajectory
from progdistill.models.conditioning import Conditioning
from progdistill.models.denoiser import Denoiser, Images, Times
from progdistill.training.guidance import GuidanceRange
from progdistill.training.random import BatchRandom

EVEN = AngleGrid()


class Objective(Protocol):
    """The mean loss of a model on a batch; `network` is the model, wrapped for several ranks or not."""

    def __call__(
        self, model: Denoiser, network: nn.Module, x: Images, conditioning: Conditioning | None, random: BatchRandom
    ) -> Float[Tensor, ""]:
        """Compute the loss.

        Args:
            model: The denoiser being trained.
            network: `model`, or its DDP wrapper, to call for the output.
            x: Images in [−1, 1], or latents.
            conditioning: Their columns; None for an unconditional model.
            random: The only source of randomness.
        """


class BaseObjective:
    """Algorithm 1: t ~ U[0, 1], and the clean data is the target.

    With probability `label_dropout` a sample's label is replaced by num_classes, "no class", and its prompt by the
    empty one, whose columns `unconditional` holds in one row: one network learns the conditional and the unconditional
    model (Ho & Salimans 2021).
    """

    def __init__(
        self, loss_weight: LossWeight, label_dropout: float = 0.0, unconditional: Conditioning | None = None
    ) -> None:
        self._loss_weight, self._label_dropout, self._unconditional = loss_weight, label_dropout, unconditional

    def __call__(
        self, model: Denoiser, network: nn.Module, x: Images, conditioning: Conditioning | None, random: BatchRandom
    ) -> Float[Tensor, ""]:
        """Compute the loss; see Objective."""
        t = random.uniform()
        eps = random.noise_like(x)
        if conditioning is not None and self._label_dropout:
            dropped = random.uniform() < self._label_dropout
            without = model.without_condition(conditioning, self._unconditional)
            conditioning = {name: _replaced(column, without[name], dropped) for name, column in conditioning.items()}
        z = diffuse(x, eps, t)
        output = network(z, t, conditioning)
        target = velocity_from_x_eps(x, eps, t)
        return weighted_loss(output, target, z, t, model.config.prediction, self._loss_weight).mean()


def _replaced(column: Tensor, by: Tensor, where: Tensor) -> Tensor:
    return torch.where(where.reshape(-1, *[1] * (column.ndim - 1)), by, column)


class Trajectory(NamedTuple):
    """Noisy states come from a model's own way from noise, not from data."""

    of_student: bool
    """The student's, with the steps that it is learning; otherwise the teacher's, with its own."""
    most_steps: int
    """Longer ways are taken in longer steps."""


class TargetInputs(NamedTuple):
    """What the target of a batch is computed from."""

    model: Denoiser
    """The student."""
    x: Images
    z: Images
    times: Float[Tensor, "batch points"]
    """Of each sample those of its step, from the one of z down."""
    conditioning: Conditioning | None
    w: Times | None


class DistillationObjective:
    """Algorithm 2: t is one of the N times of the student's grid; steps of the teacher give the target.

    Where the grid starts below t = 1, the student starts from pure noise in sampling, and so it does here.
    Where teacher and student take guidance as an input, `guidance_scale` is the range that each sample's
    scale is drawn from, the same for both. `unconditional` is one row of what "no condition" means to a teacher
    without labels: the columns of the empty or of a negative prompt. With a `trajectory` only the shape of x counts.
    """

    def __init__(
        self,
        teacher: Denoiser,
        student_steps: int,
        loss_weight: LossWeight,
        guidance_scale: GuidanceRange | None = None,
        grid: Grid = EVEN,
        teacher_steps: int = 2,
        unconditional: Conditioning | None = None,
        trajectory: Trajectory | None = None,
        loss: LossName = LossName.SQUARED,
        solver: TeacherSolver = TeacherSolver.DDIM,
    ) -> None:
        self._teacher = teacher.eval()
        self._loss_weight, self._loss, self._guidance_scale = loss_weight, loss, guidance_scale
        self._solver = solver
        self._is_even = isinstance(grid, AngleGrid) and teacher_steps == 2
        self._steps, self._levels = student_steps, [times_of_steps(grid, student_steps, teacher_steps)]
        self._starts_at_1 = grid.times(student_steps)[0] == 1
        self._unconditional = unconditional
        self._trajectory = trajectory
        if trajectory is not None:
            self._path = grid.times(student_steps if trajectory.of_student else student_steps * teacher_steps)[:-1]

    def __call__(
        self, model: Denoiser, network: nn.Module, x: Images, conditioning: Conditioning | None, random: BatchRandom
    ) -> Float[Tensor, ""]:
        """Compute the loss; see Objective."""
        rows = self._rows(random.update, x)
        row = random.integers(1, len(rows)) - 1
        times = rows[row]
        t, noise = times[:, 0], random.noise_like(x)
        w = None if self._guidance_scale is None else draw_w(self._guidance_scale, random)
        if self._trajectory is not None:
            z = self._on_trajectory(self._trajectory, model, noise, row, len(rows), conditioning, w)
        else:
            z = diffuse(x, noise, t)
            # α is not 0 there: trained on what is left of x, students would expect it of pure noise.
            if not self._starts_at_1:
                z = torch.where((row == len(rows) - 1)[:, None, None, None], noise, z)
        target = self._target(TargetInputs(model, x, z, times, conditioning, w))
        output = network(z, t, conditioning, w if model.config.network.guidance_input else None)
        prediction = model.config.prediction
        return weighted_loss(output, target, z, t, prediction, self._loss_weight, self._loss).mean()

    @property
    def passes_without_gradient(self) -> int:
        """Ways of an image forward through a network for the state and the target of an update."""
        if self._trajectory is None:
            return self._passes_for_target
        steps = len(self._path) - len(self._path) // len(self._levels[0])
        return self._passes_for_target + len(starts_of_steps(steps, self._trajectory.most_steps))

    @property
    def _passes_for_target(self) -> int:
        return 2 if self._solver is TeacherSolver.HEUN else self._levels[0].shape[1] - 1

    def _level(self, update: int) -> int:
        """Which of `_levels` an update learns."""
        return 0

    def _rows(self, update: int, x: Images) -> Float[Tensor, "rows points"]:
        """The times that an update draws from, the noisy end last; a sample gets a row."""
        level = self._level(update)
        self._levels[level] = self._levels[level].to(x.dtype).to(x.device)
        return self._levels[level]

    def _on_trajectory(
        self,
        trajectory: Trajectory,
        model: Denoiser,
        noise: Images,
        row: Int64[Tensor, " batch"],
        rows: int,
        conditioning: Conditioning | None,
        w: Times | None,
    ) -> Images:
        if trajectory.of_student:
            velocity = model.bind(conditioning, w if model.config.network.guidance_input else None)
        else:
            velocity = self._teacher_velocity(conditioning, w)
        stride = len(self._path) // rows
        path = self._path[: len(self._path) - stride + 1]
        return state_on_trajectory(velocity, noise, path, stride * (rows - 1 - row), trajectory.most_steps)

    def _teacher_velocity(self, conditioning: Conditioning | None, w: Times | None) -> Velocity:
        return self._teacher.bind(conditioning, w)

    def _target(self, inputs: TargetInputs) -> Images:
        """The velocity that the student learns."""
        teacher, z, times = self._teacher_velocity(inputs.conditioning, inputs.w), inputs.z, inputs.times
        if self._solver is TeacherSolver.HEUN:
            return heun_velocity(teacher, z, times[:, 0], times[:, -1])
        if self._is_even:
            return distillation_target(teacher, z, times[:, 0], self._steps)
        return target_along(teacher, z, times)


def times_of_steps(grid: Grid, student_steps: int, teacher_steps: int) -> Float[Tensor, "steps points"]:
    """The times between which a teacher steps, for each step of its student, float64.

    Times fall along a row. The first row is the last step, which ends at t = 0; rows rise to the noisy end.
    """
    path = torch.tensor(grid.times(student_steps * teacher_steps), dtype=torch.float64)
    return path.unfold(0, teacher_steps + 1, teacher_steps).flip(0)


class GuidanceObjective(DistillationObjective):
    """Stage one of Meng et al. (2023): like Algorithm 2, but the guided teacher's velocity is the target.

    The student is evaluated once where its teacher is evaluated twice. One without a guidance input learns a range of
    one scale. Its times are those at which samplers of N steps, and the students of the next stages, evaluate it.
    """

    @property
    def _passes_for_target(self) -> int:
        return 2

    def _teacher_velocity(self, conditioning: Conditioning | None, w: Times | None) -> Velocity:
        conditional, unconditional, scale = self._to_guide(conditioning, w)
        return guided(conditional, unconditional, scale)

    def _target(self, inputs: TargetInputs) -> Images:
        conditional, unconditional, scale = self._to_guide(inputs.conditioning, inputs.w)
        return guidance_target(conditional, unconditional, inputs.z, inputs.times[:, 0], scale)

    def _to_guide(self, conditioning: Conditioning | None, w: Times | None) -> tuple[Velocity, Velocity, Times]:
        """The teacher with and without its condition, and w."""
        if conditioning is None or w is None:
            raise ValueError("guidance needs a condition and a range of guidance scales")
        without = self._teacher.without_condition(conditioning, self._unconditional)
        return self._teacher.bind(conditioning), self._teacher.bind(without), w


def draw_w(guidance_scale: GuidanceRange, random: BatchRandom) -> Times:
    """w = guidance_scale − 1 of each sample, uniform on the range."""
    return (guidance_scale.lowest - 1) + (guidance_scale.highest - guidance_scale.lowest) * random.uniform()
