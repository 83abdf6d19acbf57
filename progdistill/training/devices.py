"""Which device a rank computes on, what people call it, and how ranks on such devices talk to each other."""

import importlib
import os
from collections.abc import Callable

import torch

from progdistill.errors import UsageError
from progdistill.training.rendezvous import Gang


def choose_device(wanted: str, local_rank: int) -> torch.device:
    """The device of a rank of this host: as wanted, or the first of cuda, tpu and cpu that is here.

    `cuda` is NVIDIA's and, in torch's builds for ROCm, AMD's. Raises UsageError for one that is not here.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    if wanted == "tpu":
        return _tpu()
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"rank {local_rank} of this host has no GPU: there are {torch.cuda.device_count()};"
                " set compute.world_size to that, or compute.device=cpu"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        return device
    if wanted == "cuda":
        raise UsageError(
            f"compute.device=cuda, but torch {torch.__version__} finds no GPU here: see `nvidia-smi` or"
            " `rocm-smi`, install torch's build for that GPU, or set compute.device=cpu"
        )
    return torch.device("tpu") if _tpu_is_registered() else torch.device("cpu")


def device_name(device: torch.device) -> str:
    """What a person calls the device."""
    if device.type == "cpu":
        return "cpu"
    name: str = torch.get_device_module(device).get_device_name(device)
    return name


def collectives_of(device: torch.device) -> str:
    """torch's name for how ranks on such devices exchange tensors."""
    return {"cuda": "nccl", "tpu": "tpu_dist"}.get(device.type, "gloo")


def device_of_draws(device: torch.device) -> torch.device:
    """Where random numbers are drawn: on a TPU's host, since torch-tpu promises no generators of our own."""
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
    try:
        return torch.device("tpu").type == "tpu"
    except RuntimeError:
        return False


class Rank:
    """This process among its peers, as the environment tells it (the names are torchrun's); else alone."""

    def __init__(self, device: str, threads: int | None) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.device = choose_device(device, local_rank)
        torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // self.world_size))
        self._gang = self._met() if self.world_size > 1 else None
        if self._gang is not None:
            torch.distributed.init_process_group(
                collectives_of(self.device),
                store=self._gang.store,
                rank=self.rank,
                world_size=self.world_size,
            )

    @property
    def device_name(self) -> str:
        """What a person calls the device."""
        return device_name(self.device)

    @property
    def attempt(self) -> str:
        """What names this set of processes among all that have worked on the job."""
        return "alone" if self._gang is None else self._gang.token

    def agreed(self, name: str, decide: Callable[[], str]) -> str:
        """Rank 0's decision, on every rank."""
        return decide() if self._gang is None else self._gang.agreed(name, decide)

    def claim_failure(self) -> bool:
        """Whether this rank is the first to fail; those after it failed because of it."""
        return self._gang is None or self._gang.claim_failure()

    def any_rank(self, here: bool) -> bool:
        """Whether it holds on any rank: all get the same answer, and stop at the same update."""
        if self.world_size == 1:
            return here
        flag = torch.tensor([int(here)], device=self.device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag.item())

    def close(self) -> None:
        """Leave together with the other ranks: nobody before rank 0 has published what they made."""
        if self._gang is not None:
            self._gang.leave()
            torch.distributed.destroy_process_group()

    def _met(self) -> Gang:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return Gang(self.rank, self.world_size, address, port, os.environ.get("PROGDISTILL_JOB_UID", ""))
