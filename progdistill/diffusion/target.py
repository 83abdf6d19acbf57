"""The distillation target (Algorithm 2, App. G)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from progdistill.diffusion.prediction import Velocity
from progdistill.diffusion.schedule import Images, Times, turned


@torch.no_grad()
def distillation_target(teacher: Velocity, z: Images, t: Times, student_steps: int) -> Images:
    """v* with which one student step from t to t − 1/N lands where two DDIM steps of the teacher do.

    With h = π/(4N), half the angle of a student step, two rotations (eq. 38) by h and one by 2h agree for

        v* = ½·v₁ + v₂/(2·cos h) − ½·tan(h)·z_t,

    v₁ and v₂ being the teacher's velocities at z_t and where its first step ends. This is eq. 43 in terms of
    v: that divides two differences which vanish as N grows, here nothing cancels, and neither t = 1 nor the
    last step to t = 0 is a special case. The teacher may have any number of steps of its own (App. I).

    Args:
        teacher: May return lower precision than z.
        z: z_t, float32 or float64.
        t: In [1/N, 1].
        student_steps: N.

    Returns:
        v* with the shape and dtype of z.
    """
    h = math.pi / (4 * student_steps)
    v1 = teacher(z, t).to(z.dtype)
    midway = math.cos(h) * z - math.sin(h) * v1
    v2 = teacher(midway, t - 0.5 / student_steps).to(z.dtype)
    return v1 / 2 + v2 / (2 * math.cos(h)) - math.tan(h) / 2 * z


@torch.no_grad()
def target_along(teacher: Velocity, z: Images, times: Float[Tensor, "batch points"]) -> Images:
    """v* with which one student step from the first to the last time lands where DDIM steps from each to the next do.

    After steps that turned by Δ in all, v is the velocity of a single step to the same point. One more step, by δ
    with the velocity v′, makes it

        (cos δ·sin Δ)/sin(Δ + δ)·v + sin δ/sin(Δ + δ)·v′ − (sin Δ·sin δ)/sin(Δ + δ)·z.

    No difference occurs, so nothing cancels. Two equal steps give `distillation_target`.

    Args:
        teacher: May return lower precision than z.
        z: The state at the first time, float32 or float64.
        times: Falling along a row, at least two.

    Returns:
        v* with the shape and dtype of z.
    """
    state = z
    velocity = target = teacher(z, times[:, 0]).to(z.dtype)
    for place in range(1, times.shape[1] - 1):
        start, now, end = times[:, 0], times[:, place], times[:, place + 1]
        step = turned(times[:, place - 1], now, z)
        state = step.cos() * state - step.sin() * velocity
        velocity = teacher(state, now).to(z.dtype)
        target = _of_both(target, velocity, z, start, now, end)
    return target


@torch.no_grad()
def jump_target(first: Images, student: Velocity, z: Images, times: Float[Tensor, "batch 3"]) -> Images:
    """v* with which one jump lands where a step of the teacher and a jump of the student from there do.

    TRACT (Berthelot et al. 2023) and multistep consistency (Heek et al. 2024): what the student learns at a time t is
    the teacher's step to the next time s, followed by what it has learned to do from s to the end of its step.

    Args:
        first: The velocity of the teacher's step, in the dtype of z; see `teacher_step`.
        student: Its average over recent updates, or as it is; asked at s, or at t where s is the end.
        z: The state at t, float32 or float64.
        times: Of each sample t > s ≥ the end of the student's step.

    Returns:
        v* with the shape and dtype of z; where s is the end, `first`.
    """
    t, s, end = times.unbind(1)
    turn = turned(t, s, z)
    state = turn.cos() * z - turn.sin() * first
    # Its answer does not count at the end, which it may not know; at t = 0 none does.
    velocity = student(state, torch.where(s > end, s, t)).to(z.dtype)
    return _of_both(first, velocity, z, t, s, end)


def _of_both(first: Images, second: Images, z: Images, t: Times, s: Times, end: Times) -> Images:
    """The velocity of a single step to where a step to s with the velocity `first`, then one with `second`, ends."""
    before, last, whole = turned(t, s, z), turned(s, end, z), turned(t, end, z)
    sum_of_both = last.cos() * before.sin() * first + last.sin() * second - before.sin() * last.sin() * z
    return sum_of_both / whole.sin()
