"""What a network is conditioned on: named tensors, one row per sample."""

from collections.abc import Mapping

import torch
from torch import Tensor

Conditioning = Mapping[str, Tensor]
"""Column name → [batch, …]: `label` int64 [batch]; for text, the columns that the network's file declares."""


def rows_of(conditioning: Conditioning | None, rows: slice) -> Conditioning | None:
    """Some rows of every column."""
    return None if conditioning is None else {name: column[rows] for name, column in conditioning.items()}


def joined(first: Conditioning, second: Conditioning) -> Conditioning:
    """The rows of both, for one batch of a conditional and an unconditional evaluation."""
    return {name: torch.cat((column, second[name])) for name, column in first.items()}
