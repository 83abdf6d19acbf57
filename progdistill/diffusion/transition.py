"""Steps between two times s < t of the diffusion process: forward (eq. 1) and back, x being known (eq. 3).

With r = e^(λ_t−λ_s) multiplied out nothing divides by α_t or σ_s: t = 1 and s = 0 are no special cases.
"""

import math

from progdistill.diffusion.schedule import Images, alpha_sigma_at


def forward_variance(t: float, s: float) -> float:
    """σ²_{t|s} = (1 − r)·σ_t², the variance of q(z_t | z_s) (eq. 1)."""
    return _one_minus_r(t, s) * alpha_sigma_at(t)[1] ** 2


def posterior_variance(t: float, s: float) -> float:
    """σ̃²_{s|t} = (1 − r)·σ_s², the variance of q(z_s | z_t, x) (eq. 3)."""
    return _one_minus_r(t, s) * alpha_sigma_at(s)[1] ** 2


def posterior_mean(z: Images, x: Images, t: float, s: float) -> Images:
    """μ_{s|t}(z_t, x) = r·(α_s/α_t)·z_t + (1 − r)·α_s·x (eq. 3)."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = alpha_sigma_at(t), alpha_sigma_at(s)
    kept = alpha_t * sigma_s**2 / (alpha_s * sigma_t**2)
    return kept * z + _one_minus_r(t, s) * alpha_s * x


def _one_minus_r(t: float, s: float) -> float:
    """1 − r = 1 − (tan φ_s/tan φ_t)² as a product of sines, since for close times the difference cancels."""
    apart, together = (t - s) * math.pi / 2, (t + s) * math.pi / 2
    return math.sin(apart) * math.sin(together) / (alpha_sigma_at(s)[0] * alpha_sigma_at(t)[1]) ** 2
