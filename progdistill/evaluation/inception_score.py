"""The Inception Score of class probabilities (Salimans et al. 2016), as a stream."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor


class ScoreSums(NamedTuple):
    """Sums over samples: of p(y|x), and of the negative entropies Σ_y p·log p."""

    samples: int
    probabilities: Float64[Tensor, " classes"]
    negative_entropy: float


def score_sums(probabilities: Float[Tensor, "batch classes"]) -> ScoreSums:
    """The sums of one batch."""
    wide = probabilities.double()
    return ScoreSums(len(wide), wide.sum(dim=0).cpu(), float(torch.xlogy(wide, wide).sum()))


def add_sums(first: ScoreSums, second: ScoreSums) -> ScoreSums:
    """The sums of both sets of samples."""
    return ScoreSums(
        first.samples + second.samples,
        first.probabilities + second.probabilities,
        first.negative_entropy + second.negative_entropy,
    )


def inception_score(sums: ScoreSums) -> float:
    """exp E_x KL(p(y|x) ‖ p(y)): from 1 to the number of classes, over all samples as one split."""
    marginal = sums.probabilities / sums.samples
    divergence = sums.negative_entropy / sums.samples - torch.xlogy(marginal, marginal).sum()
    return float(torch.exp(divergence))
