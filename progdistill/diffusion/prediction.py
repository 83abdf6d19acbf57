"""From what a network predicts to the velocity v = α·ε − σ·x (Appendix D), and from v to x and ε."""

from jaxtyping import Float
from torch import Tensor

from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.schedule import alpha_sigma, broadcast

Images = Float[Tensor, "batch ..."]
Times = Float[Tensor, " batch"]

EPS_ALPHA_FLOOR = 1e-4
"""ε-prediction implies v through a division by α, which is 0 at t = 1 (section 4): the floor of α."""


def output_multiplier(prediction: PredictionType) -> int:
    """How many images the network puts out: two for the combined (x, ε) prediction."""
    return 2 if prediction is PredictionType.X_EPS else 1


def velocity_from_output(output: Images, z: Images, t: Times, prediction: PredictionType) -> Images:
    """v̂ at (z_t, t) from the raw output of a network of any prediction type.

    Combined (x, ε): x̂ = σ²·x̃ + α·(z − σ·ε̃) (section 4) makes v̂ = α·ε̃ − σ·x̃, without any division.
    x: v̂ = (α·z − x̂)/σ, infinite at t = 0, where nothing is evaluated. ε: v̂ = (ε̂ − σ·z)/α, with α floored.
    """
    alpha, sigma = (broadcast(c, z) for c in alpha_sigma(t))
    match prediction:
        case PredictionType.V:
            return output
        case PredictionType.X_EPS:
            x, eps = output.chunk(2, dim=1)
            return alpha * eps - sigma * x
        case PredictionType.X:
            return (alpha * z - output) / sigma
        case PredictionType.EPS:
            return (output - sigma * z) / alpha.clamp(min=EPS_ALPHA_FLOOR)


def x_from_velocity(v: Images, z: Images, t: Times) -> Images:
    """x̂ = α·z − σ·v̂ (eq. 30)."""
    alpha, sigma = (broadcast(c, z) for c in alpha_sigma(t))
    return alpha * z - sigma * v


def eps_from_velocity(v: Images, z: Images, t: Times) -> Images:
    """ε̂ = σ·z + α·v̂ (Appendix D)."""
    alpha, sigma = (broadcast(c, z) for c in alpha_sigma(t))
    return sigma * z + alpha * v


def velocity_from_x_eps(x: Images, eps: Images, t: Times) -> Images:
    """v = α·ε − σ·x (eq. 26)."""
    alpha, sigma = (broadcast(c, x) for c in alpha_sigma(t))
    return alpha * eps - sigma * x
