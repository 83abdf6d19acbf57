"""One rank of a small training: `python -m tests.training.member ORDER`, ORDER being JSON.

Rank 0 leaves the weights in `folder`/weights.safetensors; all leave with the worker's exit statuses.
"""

import math
import os
import sys
from functools import partial
from itertools import count
from pathlib import Path

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from progdistill.data.dataset import DatasetInfo
from progdistill.data.loader import TrainingLoader
from progdistill.diffusion.grid import AngleGrid
from progdistill.diffusion.names import LossWeight
from progdistill.errors import ProgdistillError
from progdistill.models.conditioning import Conditioning
from progdistill.models.denoiser import Denoiser, build_denoiser, save_weights
from progdistill.store.open import open_store
from progdistill.training.config import OptimizerName
from progdistill.training.distributed import Rank
from progdistill.training.execution import Execution, place
from progdistill.training.jump_objective import JumpObjective
from progdistill.training.loop import TrainingHooks, TrainingTask, train
from progdistill.training.objective import BaseObjective, Objective
from progdistill.training.random import BatchRandom
from progdistill.training.self_teacher import SelfTeacher
from progdistill.training.snapshots import SnapshotWriter, latest_snapshot
from tests.training.conftest import JOB, settings, tiny


class Order(BaseModel):
    """What the ranks are to do."""

    folder: Path
    digits: DatasetInfo
    updates: int = 4
    stop_after: int | None = None
    sharded: bool = False
    compile_backend: str | None = None
    activation_checkpointing: bool = False
    micro_batch_size: int | None = None
    rank_without_finite_loss: int | None = None
    jumps: bool = False
    """Whether to distill with TRACT."""
    optimizer: OptimizerName = OptimizerName.ADAMW
    attempt: str = "first"


class Spoilt(BaseObjective):
    """Algorithm 1, whose loss, but not its gradient, is NaN on one rank at the third update."""

    def __init__(self, spoils: bool) -> None:
        super().__init__(LossWeight.SNR_PLUS_ONE, label_dropout=0.2)
        self._spoils, self._calls = spoils, count(1)

    def __call__(
        self, model: Denoiser, network: nn.Module, x: Tensor, conditioning: Conditioning | None, draws: BatchRandom
    ) -> Tensor:
        loss = super().__call__(model, network, x, conditioning, draws)
        return loss + math.nan if self._spoils and next(self._calls) == 3 else loss


def run(order: Order, rank: Rank) -> None:
    """Train, from the newest snapshot where there is one."""
    store = open_store(str(order.folder / "store"))
    chosen = settings(order.updates, learning_rate=5e-4, ema_decay=0.9, optimizer=order.optimizer)
    place_ = {"rank": rank.rank, "world_size": rank.world_size}
    model = build_denoiser(tiny(label_dropout=True), seed=0)
    calls = count(1)
    if order.compile_backend is not None:
        torch.compile = partial(torch.compile, backend=order.compile_backend)  # type: ignore[assignment]
    execution = Execution(
        compile=order.compile_backend is not None,
        activation_checkpointing=order.activation_checkpointing,
        sharded=order.sharded,
        micro_batch_size=order.micro_batch_size,
        channels_last=not order.sharded,
    )
    placed = place(model, execution, rank.device)
    objective: Objective = Spoilt(order.rank_without_finite_loss == rank.rank)
    self_teacher = None
    if order.jumps:
        teacher = place(build_denoiser(tiny(label_dropout=True), seed=0), execution, rank.device)
        self_teacher = SelfTeacher(placed, 0.5)
        objective = JumpObjective(teacher, 1, LossWeight.SNR_PLUS_ONE, None, AngleGrid(), 8, self_teacher)
    task = TrainingTask(
        label="test",
        settings=chosen,
        objective=objective,
        loader=TrainingLoader(order.digits, batch_size=chosen.batch_size, seed=3, flip=False, **place_),
        seed=3,
        purpose="train",
        rank=rank,
        execution=execution,
        hooks=TrainingHooks(
            SnapshotWriter(store, JOB, attempt=order.attempt, **place_),
            snapshot_interval_updates=1000,
            should_stop=lambda: next(calls) == order.stop_after,
        ),
        self_teacher=self_teacher,
    )
    trained = train(task, placed, latest_snapshot(store, JOB))
    if rank.rank == 0:
        save_weights(trained.weights, order.folder / "weights.safetensors")


def main(text: str) -> int:
    """Return the exit status."""
    rank, status = Rank("cpu", 1), 0
    try:
        run(Order.model_validate_json(text), rank)
    except ProgdistillError as error:
        print(error, file=sys.stderr, flush=True)
        status = error.exit_status
    rank.close()
    return status


if __name__ == "__main__":
    status = main(sys.argv[1])
    sys.stderr.flush()
    os._exit(status)  # as the worker does
