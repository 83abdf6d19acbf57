"""DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), the strong baseline that many would pick today."""

import math

from progdistill.diffusion.sampler import StepNoise
from progdistill.diffusion.schedule import Images
from progdistill.diffusion.velocity import Velocity, ask, clipped


def dpm_solver(
    velocity: Velocity,
    z: Images,
    steps: int,
    *,
    noise: StepNoise | None = None,
    clip: bool = False,
    gamma: float = 0.0,
) -> Images:
    """A second-order multistep method at one evaluation a step: DDIM towards an extrapolated x̂.

    x̂ is extrapolated linearly in the log-SNR from this step and the one before. The log-SNR is −∞ at t = 1
    and +∞ at t = 0: so the first two steps and the last are plain DDIM.
    """
    velocity = clipped(velocity) if clip else velocity
    delta = math.pi / (2 * steps)
    before = z
    for step in range(steps):
        angle = math.pi / 2 - step * delta
        x = math.cos(angle) * z - math.sin(angle) * ask(velocity, z, 1 - step / steps)
        ahead = x + _extrapolation(angle, delta) * (x - before) if 2 <= step < steps - 1 else x
        z = (math.sin(angle - delta) * z + math.sin(delta) * ahead) / math.sin(angle)
        before = x
    return z


def _extrapolation(angle: float, delta: float) -> float:
    """Half the coming change of log-SNR over the change just made."""
    before, now, after = (math.log(math.tan(angle + shift)) for shift in (delta, 0, -delta))
    return (now - after) / (2 * (before - now))
