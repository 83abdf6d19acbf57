"""Students that jump: TRACT (Berthelot et al. 2023) and multistep consistency (Heek et al. 2024)."""

from contextlib import nullcontext
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from progdistill.diffusion.grid import Grid
from progdistill.diffusion.names import LossName, LossWeight, TeacherSolver
from progdistill.diffusion.prediction import Velocity
from progdistill.diffusion.target import jump_target
from progdistill.diffusion.teacher_step import addim_velocity, heun_velocity
from progdistill.models.denoiser import Denoiser, Images, Times
from progdistill.training.guidance import GuidanceRange
from progdistill.training.objective import DistillationObjective, TargetInputs, Trajectory, times_of_steps
from progdistill.training.self_teacher import SelfTeacher


class Annealing(NamedTuple):
    """The teacher's steps double in number while a stage trains."""

    lowest_factor: int
    """Steps of the teacher in one of the student, at first; a power of two."""
    updates: int
    """Of the stage."""


class JumpObjective(DistillationObjective):
    """From each time of the teacher's steps the student learns to jump to the end of its own step.

    The teacher does the first of its steps from there, and the rest is what the student has learned from the next time
    on: it is its own teacher, as an average of its last updates or as it is. So one stage serves any factor, with as
    many evaluations per update as Algorithm 2.
    """

    def __init__(
        self,
        teacher: Denoiser,
        student_steps: int,
        loss_weight: LossWeight,
        guidance_scale: GuidanceRange | None,
        grid: Grid,
        factor: int,
        self_teacher: SelfTeacher | None,
        annealing: Annealing | None = None,
        trajectory: Trajectory | None = None,
        loss: LossName = LossName.SQUARED,
        solver: TeacherSolver = TeacherSolver.DDIM,
        addim_eta: float = 0.0,
    ) -> None:
        """Take the teacher's steps `factor` times as many as the student's; see DistillationObjective for the rest."""
        super().__init__(
            *(teacher, student_steps, loss_weight, guidance_scale, grid, factor, None, trajectory, loss, solver)
        )
        self._self_teacher, self._annealing, self._eta = self_teacher, annealing, addim_eta
        lowest = factor if annealing is None else min(annealing.lowest_factor, factor)
        doublings = (factor // lowest).bit_length()
        self._levels = [jumps(grid, student_steps, lowest << doubling) for doubling in range(doublings)]

    @property
    def _passes_for_target(self) -> int:
        return 3 if self._solver is TeacherSolver.HEUN else 2

    def _level(self, update: int) -> int:
        return 0 if self._annealing is None else update * len(self._levels) // self._annealing.updates

    def _target(self, inputs: TargetInputs) -> Images:
        model, x, z, times, conditioning, w = inputs
        first = self._first(self._teacher_velocity(conditioning, w), x, z, times[:, 0], times[:, 1])
        student = model.bind(conditioning, w if model.config.network.guidance_input else None)
        with nullcontext() if self._self_teacher is None else self._self_teacher.in_place():
            return jump_target(first, student, z, times)

    @torch.no_grad()
    def _first(self, teacher: Velocity, x: Images, z: Images, t: Times, s: Times) -> Images:
        """The velocity of the teacher's step."""
        match self._solver:
            case TeacherSolver.DDIM:
                return teacher(z, t).to(z.dtype)
            case TeacherSolver.HEUN:
                return heun_velocity(teacher, z, t, s)
            case TeacherSolver.ADDIM:
                return addim_velocity(teacher, x, z, t, s, self._eta)


def jumps(grid: Grid, student_steps: int, factor: int) -> Float[Tensor, "rows 3"]:
    """Each time of the teacher's steps, the next one, and the end of the student's step; the noisy end last."""
    rows = times_of_steps(grid, student_steps, factor)
    ends = rows[:, -1:].expand(-1, factor)
    return torch.stack((rows[:, :-1], rows[:, 1:], ends), dim=2).flip(1).flatten(0, 1)
