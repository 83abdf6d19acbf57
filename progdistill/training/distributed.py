"""One rank of a distributed job: its device, and what it exchanges with the other ranks."""

import os
import secrets
from datetime import timedelta
from typing import Final, cast

import torch
import torch.distributed as dist

from progdistill.training.devices import choose_device, keep_freed_memory

COLLECTIVE_TIMEOUT: Final = timedelta(minutes=30)
WAIT_TIMEOUT: Final = timedelta(days=7)  # while another rank publishes or measures; over gloo, which keeps no GPU busy


class Rank:
    """This process among the ranks of its job, by torchrun's environment variables; without them the only rank."""

    def __init__(self, device: str, threads: int | None) -> None:
        """Join the process group, on a `choose_device` device, with CPU threads (None: an even share of the cores)."""
        self.rank = int(os.environ.get("RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.device = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
        keep_freed_memory()
        torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // self.world_size))
        self._waiting_group: dist.ProcessGroup | None = None
        if self.world_size > 1:
            backend = {"cuda": "nccl", "tpu": "tpu_dist"}.get(self.device.type, "gloo")
            dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
            self._waiting_group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=WAIT_TIMEOUT))
        # Names this set of processes among all that have worked on the job.
        self.attempt = "alone" if self.world_size == 1 else self.broadcast(secrets.token_hex(8))

    def broadcast(self, text: str) -> str:
        """Return rank 0's `text` on every rank."""
        values = [text]
        if self.world_size > 1:
            dist.broadcast_object_list(values, src=0, group=self._waiting_group, device=torch.device("cpu"))
        return values[0]

    def barrier(self) -> None:
        """Wait until every rank waits, for as long as that takes."""
        if self.world_size > 1:
            dist.barrier(self._waiting_group)

    def close(self) -> None:
        """Leave together with the other ranks: none before rank 0 has published the result."""
        if self.world_size > 1:
            self.barrier()
            dist.destroy_process_group()


def is_peer_failure(error: BaseException) -> bool:
    """Return whether a collective failed because another rank is gone."""
    # NCCL and the store have exception types for that; gloo raises RuntimeError with its source file's name.
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))
