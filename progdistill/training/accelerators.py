"""The accelerators of this machine, found without importing torch, which takes two seconds."""

import os
import re
import subprocess
from pathlib import Path
from typing import Literal, NamedTuple

from progdistill.training.config import ComputeSettings, Precision

GOOGLE, TPUS = "0x1ae0", frozenset({"0x005e", "0x0062", "0x0063", "0x006f", "0x0076"})
"""PCI vendor, and its devices that are TPUs v4, v5p, v5e, v6e and v7."""

FIRST_CAPABILITY_WITH_BFLOAT16 = 8.0
"""Compute capability of NVIDIA's A100, the first GPU with bfloat16 arithmetic."""

DeviceKind = Literal["cuda", "tpu", "cpu"]


class Accelerators(NamedTuple):
    """What jobs with `compute.device=auto` use here, and how many; 0 for CPUs, which ranks share."""

    kind: DeviceKind
    number: int


def accelerators_here(root: Path = Path("/")) -> Accelerators:
    """The GPUs (NVIDIA or AMD) of this machine or container; without GPUs its TPUs."""
    gpus = _numbered(root / "dev", r"nvidia\d+")
    if not gpus and (root / "dev/kfd").exists():
        gpus = _numbered(root / "dev/dri", r"renderD\d+")
    gpus = min(gpus, _visible(gpus))
    if gpus:
        return Accelerators("cuda", gpus)
    if _has_tpu(root / "sys/bus/pci/devices"):
        tpus = _numbered(root / "dev", r"accel\d+") or _numbered(root / "dev/vfio", r"\d+")
        if tpus:
            return Accelerators("tpu", tpus)
    return Accelerators("cpu", 0)


def kind_for(compute: ComputeSettings) -> DeviceKind:
    """The kind of device that a job here will use."""
    if compute.device in ("cpu", "cuda", "tpu"):
        return compute.device  # type: ignore[return-value]
    return accelerators_here().kind


def precision_for(compute: ComputeSettings, kind: DeviceKind) -> Precision:
    """The precision of a job on devices of a kind; part of the job's identity.

    With `auto`, all CPUs use float32, so that jobs are the same on every CPU, and so do GPUs of this machine
    without bfloat16.
    """
    if compute.precision != "auto":
        return Precision(compute.precision)
    if kind == "cpu" or (kind == "cuda" and not _gpus_here_have_bfloat16()):
        return Precision.FLOAT32
    return Precision.BFLOAT16


def _gpus_here_have_bfloat16() -> bool:
    """True unless nvidia-smi says otherwise: on AMD GPUs, and where jobs are only submitted."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout
        return all(float(line) >= FIRST_CAPABILITY_WITH_BFLOAT16 for line in output.split())
    except (OSError, subprocess.SubprocessError, ValueError):
        return True


def _visible(gpus: int) -> int:
    """How many of these GPUs the environment leaves to this process."""
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        named = os.environ.get(variable)
        if named is not None:
            return sum(device.strip() not in ("", "-1") for device in named.split(","))
    return gpus


def _numbered(folder: Path, pattern: str) -> int:
    return sum(re.fullmatch(pattern, path.name) is not None for path in folder.glob("*"))


def _has_tpu(devices: Path) -> bool:
    found = ((vendor.read_text(), vendor.with_name("device").read_text()) for vendor in devices.glob("*/vendor"))
    return any(vendor.strip() == GOOGLE and device.strip() in TPUS for vendor, device in found)
