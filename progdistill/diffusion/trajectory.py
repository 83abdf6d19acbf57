"""States on a model's own way from noise, for distillation without a training set."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from progdistill.diffusion.prediction import Velocity
from progdistill.diffusion.schedule import Images, broadcast


@torch.no_grad()
def state_on_trajectory(
    velocity: Velocity, noise: Images, times: Sequence[float], positions: Int64[Tensor, " batch"], most_steps: int
) -> Images:
    """The state of each sample at a time of its own on the DDIM trajectory that begins at `noise`.

    All samples take as many evaluations, whatever their positions: shapes stay the same, as compiled networks need,
    and so does the number of passes on every rank, as sharded ones need.

    Args:
        velocity: The model.
        noise: The state at times[0], standard Gaussian.
        times: Falling, from the noisy end to the last time at which a state is wanted; a model distilled to N steps
            is asked at the times of its own steps.
        positions: Of each sample in `times`, 0 … len(times) − 1.
        most_steps: Where the trajectory has more steps, this many or fewer longer ones are taken.

    Returns:
        States with the shape and dtype of the noise; those of position 0 are the noise itself.
    """
    last = len(times) - 1
    starts = starts_of_steps(last, most_steps)
    angles = torch.tensor(times, dtype=torch.float64, device=noise.device) * (math.pi / 2)
    z = noise
    for start in starts:
        end = positions.clamp(start, min(start + starts.step, last))
        turn = (angles[start] - angles[end]).to(z.dtype)  # 0 where a sample has arrived, or is there
        v = velocity(z, torch.full((len(z),), times[start], dtype=z.dtype, device=z.device)).to(z.dtype)
        z = broadcast(turn.cos(), z) * z - broadcast(turn.sin(), z) * v
    return z


def starts_of_steps(steps: int, most_steps: int) -> range:
    """Where steps begin when `steps` are taken as at most `most_steps` longer ones."""
    return range(0, steps, max(1, math.ceil(steps / most_steps)))
