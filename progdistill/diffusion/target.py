"""The distillation target of Algorithm 2, in a form without cancellation."""

import math
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

Images = Float[Tensor, "batch ..."]
Times = Float[Tensor, " batch"]
Velocity = Callable[[Tensor, Tensor], Tensor]
"""v̂ of (z_t, t): images [batch, …] and times [batch] to images."""


def distillation_target(teacher: Velocity, z: Images, t: Times, student_steps: int) -> Images:
    """The v that makes one student step of DDIM from t to t − 1/N land where two teacher steps of 1/(2N) do.

    Eq. 43 gives this as x̃ by a division by α_t″ − (σ_t″/σ_t)·α_t, which cancels ever more as N grows. With
    δ = π/(2N), v₁ the teacher's velocity at z_t and v₂ that at z_t′ (half a student step on, eq. 38), the
    same target is v* = ½·v₁ + v₂/(2·cos(δ/2)) − ½·tan(δ/2)·z_t: nothing cancels, and no step is special.

    `teacher` may compute in bfloat16; the rotation is done in the dtype of z. With a factor-4 ladder (App. I)
    the two steps are still 1/(2N) each, whatever the teacher's own number.
    """
    half = math.pi / (4 * student_steps)
    v_1 = teacher(z, t).to(z.dtype)
    z_middle = math.cos(half) * z - math.sin(half) * v_1
    v_2 = teacher(z_middle, t - 0.5 / student_steps).to(z.dtype)
    return 0.5 * v_1 + v_2 / (2 * math.cos(half)) - 0.5 * math.tan(half) * z
