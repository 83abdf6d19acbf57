"""The distillation target (Algorithm 2, App. G)."""

import math

import torch

from progdistill.diffusion.prediction import Velocity
from progdistill.diffusion.schedule import Images, Times


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
