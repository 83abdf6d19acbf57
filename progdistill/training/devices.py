"""The device that a rank computes on."""

import ctypes
import importlib
from contextlib import suppress

import torch

from progdistill.errors import UsageError


def choose_device(wanted: str, local_rank: int) -> torch.device:
    """Return the device of a rank, the `local_rank`-th of its host, or raise UsageError.

    `wanted` is `cpu`, `cuda` (AMD's GPUs in torch's builds for ROCm), `tpu`, or `auto`: the first of cuda, tpu and cpu
    that is available.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    if wanted == "tpu":
        return _tpu()
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"rank {local_rank} of this host has no GPU: the host has {torch.cuda.device_count()};"
                " set compute.world_size to that, or compute.device=cpu"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        return device
    if wanted == "cuda":
        raise UsageError(
            f"compute.device=cuda, but torch {torch.__version__} finds no GPU here: see `nvidia-smi` or `rocm-smi`,"
            " install torch's build for that GPU, or set compute.device=cpu"
        )
    return torch.device("tpu") if _tpu_is_registered() else torch.device("cpu")


def device_name(device: torch.device) -> str:
    """Return the device's model name."""
    if device.type == "cpu":
        return "cpu"
    return str(torch.get_device_module(device).get_device_name(device))


def keep_freed_memory() -> None:
    """Have glibc reuse the memory of tensors on CPUs instead of returning it to the kernel, which would clear it anew.

    By default it returns whatever is larger than a few megabytes at once.
    """
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # M_… of malloc.h
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 256 * 2**20)
        mallopt(trim_threshold, 1024 * 2**20)
        mallopt(top_pad, 64 * 2**20)


def device_of_draws(device: torch.device) -> torch.device:
    """Return where random numbers are drawn: for a TPU on its host, since torch-tpu has no own generators."""
    return torch.device("cpu") if device.type == "tpu" else device


def _tpu() -> torch.device:
    try:
        importlib.import_module("torch_tpu")  # registers "tpu" where it finds one
    except ImportError:
        raise UsageError(
            "compute.device=tpu needs torch-tpu beside torch, and a TPU: pip install torch-tpu==0.2.0"
        ) from None
    if not _tpu_is_registered():
        raise UsageError("compute.device=tpu, but torch-tpu finds no TPU on this machine")
    return torch.device("tpu")


def _tpu_is_registered() -> bool:
    with suppress(RuntimeError):
        return torch.device("tpu").type == "tpu"
    return False
