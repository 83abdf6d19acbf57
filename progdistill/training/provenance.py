"""The provenance of a checkpoint: when, where and with what code it was made."""

import importlib.metadata
import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue

from progdistill.registry.checkpoint import Provenance, TrainingFigures
from progdistill.version import __version__

RECORDED_PACKAGES = ("torch", "numpy", "safetensors", "metaflow")


def code_version() -> tuple[str, bool | None]:
    """The package version with the commit of its checkout, and whether that has uncommitted changes."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return __version__, None
    describe = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty"]
    try:
        commit = subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return __version__, None
    return f"{__version__}+{commit.removesuffix('-dirty')}", commit.endswith("-dirty")


def peak_memory_bytes(on_gpu: bool) -> int:
    """Peak memory of this process in bytes: allocated on its GPU, or resident."""
    if on_gpu:
        import torch

        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def provenance(
    *,
    device: str,
    configuration: dict[str, JsonValue],
    dataset_name: str,
    created_by: str | None = None,
    figures: TrainingFigures | None = None,
) -> Provenance:
    """Collect the provenance of a checkpoint that this process made just now."""
    version, dirty = code_version()
    return Provenance(
        created_at=datetime.now(UTC),
        code_version=version,
        code_dirty=dirty,
        packages={name: importlib.metadata.version(name) for name in RECORDED_PACKAGES},
        device=device,
        host=platform.node(),
        created_by=created_by,
        configuration=configuration,
        dataset_name=dataset_name,
        figures=figures,
    )
