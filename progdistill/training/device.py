"""The device, the threads and the process group of one rank."""

import os
from collections.abc import Callable

import torch

from progdistill.training.devices import choose_device, collectives_of, device_name
from progdistill.training.rendezvous import Gang


class Rank:
    """This process among its peers, as the environment tells it (the names are torchrun's); else alone."""

    def __init__(self, device: str, threads: int | None) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.ranks = int(os.environ.get("WORLD_SIZE", "1"))
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.device = choose_device(device, local_rank)
        torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // self.ranks))
        self._gang = self._met() if self.ranks > 1 else None
        if self._gang is not None:
            torch.distributed.init_process_group(
                collectives_of(self.device),
                store=self._gang.store,
                rank=self.rank,
                world_size=self.ranks,
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
        if self.ranks == 1:
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
        return Gang(self.rank, self.ranks, address, port, os.environ.get("PROGDISTILL_GANG", ""))
