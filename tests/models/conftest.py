"""Small denoisers with random weights, and a store for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.noise_schedules import DiscreteSchedule
from progdistill.models.config import ARCHITECTURES, DenoiserConfig
from progdistill.models.denoiser import Denoiser, build_denoiser
from progdistill.store.base import Store
from progdistill.store.open import open_store

MakeDenoiser = Callable[..., Denoiser]


@pytest.fixture
def make_denoiser() -> MakeDenoiser:
    """A digits-sized denoiser; keyword arguments change its network."""

    def make(
        prediction: PredictionType = PredictionType.V, foreign_schedule: DiscreteSchedule | None = None, **network: Any
    ) -> Denoiser:
        config = DenoiserConfig(
            network=ARCHITECTURES["digits"].model_copy(update=network),
            prediction=prediction,
            foreign_schedule=foreign_schedule,
        )
        return randomize(build_denoiser(config, seed=0))

    return make


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A fresh local store."""
    return open_store(str(tmp_path / "store"))


def randomize(denoiser: Denoiser) -> Denoiser:
    """Move every weight off its initial value: the zeros of initialization would hide most of a network."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return denoiser.eval()
