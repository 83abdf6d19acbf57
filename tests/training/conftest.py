"""Tiny denoisers, and real digits to train them on, in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from progdistill.data.dataset import DatasetInfo, find_dataset
from progdistill.data.loader import TrainingLoader
from progdistill.diffusion.names import LossWeight, PredictionType
from progdistill.models.config import DenoiserConfig, UNetConfig
from progdistill.store.base import Store
from progdistill.store.open import open_store
from progdistill.training.config import TrainingSettings
from progdistill.training.distributed import Rank
from progdistill.training.execution import Execution
from progdistill.training.loop import TrainingHooks, TrainingTask
from progdistill.training.objective import Objective
from progdistill.training.snapshots import SnapshotWriter

MakeTask = Callable[..., TrainingTask]
JOB = "a" * 64


def tiny(prediction: PredictionType = PredictionType.V, **network: Any) -> DenoiserConfig:
    """A denoiser of 8×8 digits with about 20,000 parameters."""
    facts: dict[str, Any] = {
        "image_channels": 1,
        "image_size": 8,
        "base_channels": 8,
        "channel_multipliers": (1, 2),
        "residual_blocks": 1,
        "num_classes": 10,
        "groups": 4,
    }
    return DenoiserConfig(network=UNetConfig(**(facts | network)), prediction=prediction)


def settings(updates: int, **changes: Any) -> TrainingSettings:
    """Training settings that move a tiny model within a few updates."""
    facts: dict[str, Any] = {
        "updates": updates,
        "batch_size": 16,
        "learning_rate": 2e-3,
        "loss_weight": LossWeight.SNR_PLUS_ONE,
    }
    return TrainingSettings(**(facts | changes))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # Networks this small only wait for each other's threads.


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    return find_dataset("digits", tmp_path_factory.mktemp("data"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def make_task(store: Store, digits: DatasetInfo) -> MakeTask:
    """A task of this process; keyword arguments change it."""

    def make(
        objective: Objective, chosen: TrainingSettings, should_stop: Callable[[], bool] = lambda: False, **changes: Any
    ) -> TrainingTask:
        loader = TrainingLoader(digits, batch_size=chosen.batch_size, seed=3, flip=False)
        facts: dict[str, Any] = {
            "label": "test",
            "settings": chosen,
            "objective": objective,
            "loader": loader,
            "seed": 3,
            "purpose": "train",
            "rank": Rank("cpu", 1),
            "execution": Execution(),
            "hooks": TrainingHooks(SnapshotWriter(store, JOB), 1000, should_stop),
        }
        return TrainingTask(**(facts | changes))

    return make
