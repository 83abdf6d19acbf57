"""One step of a teacher from t to s by other solvers than DDIM, as the velocity with which DDIM would end there."""

import torch
from torch import Tensor

from progdistill.diffusion.prediction import Velocity, eps_from_velocity, x_from_velocity
from progdistill.diffusion.schedule import Images, Times, broadcast, coefficients, turned


@torch.no_grad()
def heun_velocity(teacher: Velocity, z: Images, t: Times, s: Times) -> Images:
    """The velocity of a Heun step of dz/dφ = v̂ (eq. 6), of second order with two evaluations.

    A step by δ with the mean v̄ of both velocities ends at z − δ·v̄, and so does a rotation by δ with

        (δ/sin δ)·v̄ − tan(δ/2)·z.

    The last step, to t = 0 where no model is asked, is the midpoint rule, as in `samplers`.

    Args:
        teacher: May return lower precision than z.
        z: The state at t, float32 or float64.
        t: Of each sample.
        s: Where its step ends, below t.

    Returns:
        The velocity with the shape and dtype of z.
    """
    is_last = s == 0
    second_time = torch.where(is_last, t / 2, s)
    first = teacher(z, t).to(z.dtype)
    state = z - turned(t, second_time, z) * first
    second = teacher(state, second_time).to(z.dtype)
    share = broadcast(torch.where(is_last, 1.0, 0.5), z).to(z.dtype)
    mean = first + share * (second - first)
    turn = turned(t, s, z)
    return turn / turn.sin() * mean - (turn / 2).tan() * z


@torch.no_grad()
def addim_velocity(teacher: Velocity, x: Images, z: Images, t: Times, s: Times, eta: float) -> Images:
    """The velocity of a step of adjusted DDIM (aDDIM, Heek et al. 2024).

    DDIM puts the mean x̂ of what x may be in the place of x, and so loses the variance of x about it. With

        c = α_s − α_t·σ_s/σ_t = sin δ/σ_t

    a step ends at z_s = c·x̂ + (σ_s/σ_t)·z where it should end at c·x + (σ_s/σ_t)·z: on average over x given z, a share
    V = c²·(x − x̂)² of the second moment is missing. It is given back along ε̂: z_s + κ·ε̂ has the second moment of z_s
    and η·V more, all being means over a sample's pixels, where κ = η·V/(b + √(b² + η·V·ε̂²)), b = z_s·ε̂. The paper takes
    x̂ to be orthogonal to ε̂, which makes b = σ_s·ε̂²; of smooth data at little noise that is not so. As a velocity it is
    v̂ − κ/sin δ·ε̂, in which nothing cancels for short steps.

    Args:
        teacher: May return lower precision than z.
        x: The data that z was made of.
        z: The state at t, float32 or float64.
        t: Of each sample.
        s: Where its step ends, below t.
        eta: η, the share that is given back: 0 is DDIM.

    Returns:
        The velocity with the shape and dtype of z.
    """
    v = teacher(z, t).to(z.dtype)
    eps = eps_from_velocity(v, z, t)
    turn, sigma = turned(t, s, z), coefficients(t, z)[1]
    sine = turn.sin()
    missed = x - x_from_velocity(v, z, t)
    lost = eta * _mean(missed, missed) / sigma.square()
    along = _mean(turn.cos() * z - sine * v, eps)
    root = (along.square() + sine.square() * lost * _mean(eps, eps)).sqrt()
    # Both are 0 only for a perfect x̂ at t = 0, where there is nothing to give back.
    return v - sine * lost / (along + root).clamp(min=1e-12) * eps


def _mean(one: Images, other: Images) -> Tensor:
    """The mean product of each sample, reshaped to multiply it."""
    return broadcast((one * other).flatten(1).mean(1), one)
