"""DDIM, the deterministic sampler that distillation is designed for."""

import math

from progdistill.diffusion.sampler import StepNoise
from progdistill.diffusion.schedule import Images
from progdistill.diffusion.velocity import Velocity, ask, clipped


def ddim(
    velocity: Velocity,
    z: Images,
    steps: int,
    *,
    noise: StepNoise | None = None,
    clip: bool = False,
    gamma: float = 0.0,
) -> Images:
    """DDIM (eq. 8) as the rotation that it is in angles: z_{φ−δ} = cos δ·z_φ − sin δ·v̂ (eq. 38)."""
    velocity = clipped(velocity) if clip else velocity
    delta = math.pi / (2 * steps)
    for step in range(steps):
        z = math.cos(delta) * z - math.sin(delta) * ask(velocity, z, 1 - step / steps)
    return z
