"""Networks from TorchScript files, whose digest has been checked before: such a file holds code."""

from pathlib import Path

import torch


def load_torchscript(path: Path, device: str) -> torch.jit.ScriptModule:
    """Load a network onto a device, ready to run."""
    network: torch.jit.ScriptModule = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    network.eval()
    return network
