"""The device, the threads and the process group of one rank."""

import os

import torch

from progdistill.training.devices import choose_device, collectives_of, device_name


class Rank:
    """This process among its peers, as torchrun's environment tells it; alone without torchrun."""

    def __init__(self, device: str, threads: int | None) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.ranks = int(os.environ.get("WORLD_SIZE", "1"))
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.device = choose_device(device, local_rank)
        torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // self.ranks))
        if self.ranks > 1:
            torch.distributed.init_process_group(collectives_of(self.device))

    @property
    def device_name(self) -> str:
        """What a person calls the device."""
        return device_name(self.device)

    def any_rank(self, here: bool) -> bool:
        """Whether it holds on any rank: all get the same answer, and stop at the same update."""
        if self.ranks == 1:
            return here
        flag = torch.tensor([int(here)], device=self.device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag.item())

    def close(self) -> None:
        """Leave the process group."""
        if self.ranks > 1:
            torch.distributed.destroy_process_group()
