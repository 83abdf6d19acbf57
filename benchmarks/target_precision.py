"""Precision of the distillation target: eq. 43 as written against the stable form in terms of v.

For every N: the largest error of x* over 1,024 points (z_t, t) of an N-step student, t from 1/N to 1, against
eq. 43 in float64. The teacher is the exact denoiser of a Gaussian mixture; |x*| is about 1.

    python benchmarks/target_precision.py > benchmarks/results/target_precision.txt
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from progdistill.diffusion.prediction import x_from_velocity
from progdistill.diffusion.target import Velocity, distillation_target

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.diffusion.algorithm_2 import answering_in, equation_43, grid

Form = Callable[[Velocity, Tensor, Tensor, int], Tensor]

PRECISIONS = {
    "float32": (torch.float32, torch.float32),
    "bf16 teacher": (torch.bfloat16, torch.float32),
    "bf16 throughout": (torch.bfloat16, torch.bfloat16),
}
"""Data types of the teacher's outputs, and of the arithmetic that computes the target."""


def stable_form(teacher: Velocity, z: Tensor, t: Tensor, steps: int) -> Tensor:
    """x* = α·z − σ·v* of the stable v*."""
    return x_from_velocity(distillation_target(teacher, z, t, steps), z, t)


def error(form: Form, steps: int, answers: torch.dtype, arithmetic: torch.dtype) -> float:
    """The largest |x* − float64|; times stay float32, in which i/N is exact."""
    z, t = grid(steps, count=1024)
    z = z.to(arithmetic)
    exact = equation_43(answering_in(torch.float64), z.double(), t, steps)
    found = form(answering_in(answers), z, t.float(), steps)
    return (found.double() - exact).abs().max().item()


def main() -> None:
    """Print a line for each N = 1, 2, 4, … 8192."""
    print("$ python benchmarks/target_precision.py   (largest error of x* against float64)\n")
    print(f"{'':>5}" + "".join(f" | {name:^21}" for name in PRECISIONS))
    print(f"{'N':>5}" + " |    eq. 43     stable " * len(PRECISIONS))
    for steps in (2**k for k in range(14)):
        pairs = [
            [error(form, steps, *precision) for form in (equation_43, stable_form)] for precision in PRECISIONS.values()
        ]
        print(f"{steps:>5}" + "".join(f" | {written:>9.1e}  {stable:>9.1e} " for written, stable in pairs))


if __name__ == "__main__":
    main()
