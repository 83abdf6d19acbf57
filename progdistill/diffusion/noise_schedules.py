"""Noise schedules of networks trained elsewhere: which log-SNR their time input stands for. No torch.

States of two schedules at equal log-SNR differ by a factor, so a foreign network is asked at our state z, scaled to
its own state, at its own time (`models/boundary.py`).
"""

import math
from itertools import accumulate, pairwise
from typing import Annotated, Literal

from pydantic import Field

from progdistill.models_base import Frozen


class DiscreteSchedule(Frozen, allow_inf_nan=False):
    """A discrete variance-preserving schedule: ᾱ_k = Π_{j≤k} (1 − β_j) for k = 0 … steps − 1.

    `linear`: β evenly spaced. `scaled_linear`: √β evenly spaced (latent diffusion).
    `squaredcos_cap_v2`: Nichol & Dhariwal (2021), ᾱ(u) = cos²((u + 0.008)/1.008 · π/2), β at most 0.999;
    it does not use beta_start and beta_end.
    `zero_terminal_snr`: √ᾱ shifted and scaled to end at 0 and keep its first value (Lin et al. 2024, algorithm 1).
    """

    kind: Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
    steps: int = Field(default=1000, ge=2, le=2**20)
    beta_start: float = Field(default=1e-4, gt=0, lt=1)
    beta_end: float = Field(default=0.02, gt=0, lt=1)
    zero_terminal_snr: bool = False

    def log_snr(self) -> list[float]:
        """λ_k = log(ᾱ_k / (1 − ᾱ_k)) for k = 0 … steps − 1, float64: strictly falling, at the end perhaps −∞."""
        levels = list(accumulate(math.log1p(-beta) for beta in self._betas()))
        if self.zero_terminal_snr:
            first, last = (math.exp(levels[k] / 2) for k in (0, -1))
            alphas = ((math.exp(level / 2) - last) * first / (first - last) for level in levels)
            levels = [2 * math.log(alpha) if alpha > 0 else -math.inf for alpha in alphas]
        return [level - math.log(-math.expm1(level)) if level > -math.inf else level for level in levels]

    def _betas(self) -> list[float]:
        fractions = [k / (self.steps - 1) for k in range(self.steps)]
        if self.kind == "linear":
            return [self.beta_start + u * (self.beta_end - self.beta_start) for u in fractions]
        if self.kind == "scaled_linear":
            low, high = math.sqrt(self.beta_start), math.sqrt(self.beta_end)
            return [(low + u * (high - low)) ** 2 for u in fractions]
        edges = [_cosine_alpha_bar(k / self.steps) for k in range(self.steps + 1)]
        return [min(1 - after / before, 0.999) for before, after in pairwise(edges)]


def _cosine_alpha_bar(u: float) -> float:
    return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2


class FlowSchedule(Frozen, allow_inf_nan=False):
    """Rectified flow: states (1 − τ)·x + τ·ε, and a network that answers u = ε − x (SD3, FLUX, Sana, Qwen, SiT).

    Our angle φ has τ = sin φ / (sin φ + cos φ).
    """

    kind: Literal["flow"] = "flow"
    time_scale: float = Field(default=1000.0, gt=0, description="the time input is time_scale·τ")
    reversed: bool = Field(default=False, description="SiT: time runs from noise 0 to data 1, and the output is x − ε")


class EDMSchedule(Frozen, allow_inf_nan=False):
    """EDM (Karras et al. 2022): states x + s·ε, asked at c_in·(x + s·ε) with the time ln(s)/4; the output is F.

    x̂ = c_skip·(x + s·ε) + c_out·F, with c_skip = σ_data²/(s² + σ_data²), c_out = s·σ_data/√(s² + σ_data²),
    c_in = 1/√(s² + σ_data²). Our angle φ has s = tan φ.
    """

    kind: Literal["edm"] = "edm"
    sigma_data: float = Field(default=0.5, gt=0)
    sigma_min: float = Field(default=0.002, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)


NoiseSchedule = Annotated[DiscreteSchedule | FlowSchedule | EDMSchedule, Field(discriminator="kind")]
