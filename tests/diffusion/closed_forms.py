"""Data whose denoiser and probability-flow map are known exactly, in float64."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from progdistill.diffusion.schedule import alpha_sigma


@dataclass(frozen=True)
class GaussianMixture:
    """Σ_k p_k·N(m_k, s_k²·I) in any number of dimensions; one component is a Gaussian."""

    means: Float64[Tensor, "components dims"]
    deviations: Float64[Tensor, " components"]
    shares: Float64[Tensor, " components"]

    def velocity(self, z: Float64[Tensor, "batch dims"], t: Float64[Tensor, " batch"]) -> Tensor:
        """The exact v̂ = α·E[ε | z_t] − σ·E[x | z_t]."""
        alpha, sigma = (c[:, None] for c in alpha_sigma(t))
        x, eps = self.posterior(z, alpha, sigma)
        return alpha * eps - sigma * x

    def posterior(
        self, z: Float64[Tensor, "batch dims"], alpha: Float64[Tensor, "batch 1"], sigma: Float64[Tensor, "batch 1"]
    ) -> tuple[Tensor, Tensor]:
        """E[x | z] and E[ε | z] for z = α·x + σ·ε, with any two coefficients.

        Given its component z is N(α·m, (α²·s² + σ²)·I), and x and ε are jointly Gaussian with it.
        """
        alpha, sigma = alpha[..., None], sigma[..., None]
        variance = alpha**2 * self.deviations[:, None] ** 2 + sigma**2
        away = z[:, None] - alpha * self.means
        log_share = (
            self.shares.log() - away.square().sum(-1) / (2 * variance[..., 0]) - z.shape[1] / 2 * variance[..., 0].log()
        )
        share = log_share.softmax(dim=1)[..., None]
        x = (share * (self.means + alpha * self.deviations[:, None] ** 2 / variance * away)).sum(1)
        eps = (share * sigma / variance * away).sum(1)
        return x, eps

    def draw(self, count: int, source: torch.Generator) -> Float64[Tensor, "count dims"]:
        """Samples of x."""
        component = torch.multinomial(self.shares, count, replacement=True, generator=source)
        noise = torch.randn(count, self.means.shape[1], generator=source, dtype=torch.float64)
        return self.means[component] + self.deviations[component, None] * noise

    def flow_map(self, z: Float64[Tensor, "batch 1"]) -> Float64[Tensor, "batch 1"]:
        """The x at t = 0 to which the probability-flow ODE takes z at t = 1, in one dimension.

        There the flow keeps order, so it maps quantiles to quantiles: F_data(x) = Φ(z), solved by bisection.
        """
        wanted = torch.special.ndtr(z)
        low, high = torch.full_like(z, -20), torch.full_like(z, 20)
        for _ in range(100):
            middle = (low + high) / 2
            below = (self.shares * torch.special.ndtr((middle - self.means[:, 0]) / self.deviations)).sum(
                1, keepdim=True
            )
            low, high = torch.where(below < wanted, middle, low), torch.where(below < wanted, high, middle)
        return (low + high) / 2


def gaussian(mean: float, deviation: float, dims: int = 1) -> GaussianMixture:
    """N(mean, deviation²·I)."""
    return mixture(torch.full((1, dims), mean, dtype=torch.float64), [deviation], [1.0])


def mixture(means: Tensor, deviations: list[float], shares: list[float]) -> GaussianMixture:
    """A mixture from plain numbers."""
    return GaussianMixture(
        means.double(), torch.tensor(deviations, dtype=torch.float64), torch.tensor(shares, dtype=torch.float64)
    )


TWO_MODES = mixture(torch.tensor([[-0.6], [0.5]]), [0.2, 0.15], [0.4, 0.6])
"""A mixture on the line, smooth enough for orders of convergence to show at tens of steps."""
