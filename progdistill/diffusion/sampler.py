"""What every sampler is: a function with one signature."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

from progdistill.diffusion.schedule import Images
from progdistill.diffusion.velocity import Velocity

StepNoise = Callable[[int], Tensor]
"""Standard Gaussian noise shaped like z for step 0, 1, … of a stochastic sampler."""


@runtime_checkable
class Sampler(Protocol):
    """Maps z₁ ~ N(0, I) to x in `steps` equal steps of time from t = 1 to t = 0.

    z is float32 or float64, and so is the result, on the device of z. With `clip` every x̂ is clipped to
    [−1, 1], and ε̂ recomputed from it. Deterministic samplers draw no `noise` and ignore `gamma`. No sampler
    asks the velocity at t = 0, where z is x already and every prediction type but v would divide by zero.
    """

    def __call__(
        self,
        velocity: Velocity,
        z: Images,
        steps: int,
        *,
        noise: StepNoise | None = None,
        clip: bool = False,
        gamma: float = 0.0,
    ) -> Images: ...
