"""Discrete noise schedules of other programs, by their few parameters: no torch."""

import math
from itertools import pairwise
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ForeignSchedule(BaseModel):
    """A discrete variance-preserving schedule: ᾱ_k = Π_{j≤k} (1 − β_j) for k = 0 … steps − 1.

    `linear`: β evenly spaced. `scaled_linear`: √β evenly spaced (latent diffusion).
    `squaredcos_cap_v2`: Nichol & Dhariwal (2021), ᾱ(u) = cos²((u + 0.008)/1.008 · π/2), β at most 0.999;
    it does not use beta_start and beta_end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
    steps: int = Field(default=1000, ge=2)
    beta_start: float = Field(default=1e-4, gt=0, lt=1)
    beta_end: float = Field(default=0.02, gt=0, lt=1)

    def log_snr(self) -> list[float]:
        """λ_k = log(ᾱ_k / (1 − ᾱ_k)) for k = 0 … steps − 1 in double precision: strictly falling."""
        log_alpha_bar, values = 0.0, []
        for beta in self._betas():
            log_alpha_bar += math.log1p(-beta)
            values.append(log_alpha_bar - math.log(-math.expm1(log_alpha_bar)))
        return values

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
