"""Networks from TorchScript files, whose digest has been checked before: such a file holds code."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


def load_torchscript(path: Path, device: str) -> torch.jit.ScriptModule:
    """Load a network onto a device, ready to run."""
    with _no_advice():
        network: torch.jit.ScriptModule = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    network.eval()
    return network


def frozen(network: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """The same function with its weights as constants: what they decide is computed beforehand."""
    with _no_advice():
        found: torch.jit.ScriptModule = torch.jit.freeze(network)
    return found


@contextmanager
def _no_advice() -> Iterator[None]:
    """TorchScript is deprecated for new networks; these exist in no other form."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
