"""Where sampling and evaluation run."""

import torch


def best_device() -> str:
    """The first CUDA device (ROCm's included), else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"
