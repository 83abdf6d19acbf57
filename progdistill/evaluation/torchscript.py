"""Networks from TorchScript files, whose digest has been checked before: such a file holds code."""

import warnings
from pathlib import Path

import torch


def load_torchscript(path: Path, device: str) -> torch.jit.ScriptModule:
    """Load a network onto a device, ready to run."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # Deprecated for new networks; these exist in no other form.
        network: torch.jit.ScriptModule = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    network.eval()
    return network
