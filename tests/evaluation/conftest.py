"""A store with a small, untrained base model and its student: the tests are about measuring, not about models."""

from datetime import UTC, datetime
from pathlib import Path
from typing import runtime_checkable

import pytest
import torch
from safetensors.torch import save_file

from progdistill.data.dataset import DatasetInfo, find_dataset
from progdistill.diffusion.names import PredictionType
from progdistill.models.config import DenoiserConfig, UNetConfig
from progdistill.models.denoiser import build_denoiser, weights_of
from progdistill.registry.checkpoint import (
    CheckpointDescription,
    CheckpointKind,
    CheckpointManifest,
    Provenance,
    publish_checkpoint,
)
from progdistill.store.base import Store
from progdistill.store.open import open_store

# Annotations of progdistill.evaluation are checked while tests run, with isinstance.
runtime_checkable(Store)
torch.set_num_threads(1)  # Networks this small only wait for each other's threads.

CONFIG = DenoiserConfig(
    network=UNetConfig(
        image_channels=1,
        image_size=8,
        base_channels=8,
        channel_multipliers=(1, 1),
        residual_blocks=1,
        num_classes=10,
        groups=4,
    ),
    prediction=PredictionType.V,
)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    return find_dataset("digits", tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def evaluated_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Shared by tests that only add to it, so that the evaluator is trained once."""
    return open_store(str(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="session")
def base(evaluated_store: Store, digits: DatasetInfo, tmp_path_factory: pytest.TempPathFactory) -> CheckpointManifest:
    return publish(evaluated_store, tmp_path_factory.mktemp("base"), digits, seed=0)


@pytest.fixture(scope="session")
def student(
    evaluated_store: Store, digits: DatasetInfo, base: CheckpointManifest, tmp_path_factory: pytest.TempPathFactory
) -> CheckpointManifest:
    folder = tmp_path_factory.mktemp("student")
    return publish(evaluated_store, folder, digits, seed=1, parent=base.id, sampling_steps=2)


def publish(
    store: Store,
    folder: Path,
    info: DatasetInfo,
    *,
    seed: int,
    parent: str | None = None,
    sampling_steps: int | None = None,
    guidance_scale: tuple[float, float] | None = None,
    label_dropout: bool = False,
    broken: bool = False,
) -> CheckpointManifest:
    """Publish an untrained denoiser whose weights are a function of the seed, with a NaN if `broken`."""
    changes = {"guidance_input": guidance_scale is not None, "label_dropout": label_dropout}
    config = CONFIG.model_copy(update={"network": CONFIG.network.model_copy(update=changes)})
    denoiser = build_denoiser(config, seed)
    started_at_zero = [*denoiser.network.conv_out.parameters()]
    if guidance_scale is not None:
        started_at_zero = [parameter for parameter in denoiser.parameters() if not parameter.any()]
    with torch.no_grad():  # else every sample would be the same
        for parameter in started_at_zero:
            parameter.normal_(generator=torch.Generator().manual_seed(seed), std=0.05)
        if broken:
            next(denoiser.parameters()).view(-1)[0] = torch.nan
    save_file(weights_of(denoiser), folder / "weights.safetensors")
    description = CheckpointDescription(
        kind=CheckpointKind.BASE if parent is None else CheckpointKind.STUDENT,
        sampling_steps=sampling_steps,
        prediction="v",
        loss_weight="snr_plus_one",
        architecture=config.model_dump(mode="json"),
        dataset_fingerprint=info.fingerprint,
        parent=parent,
        training={}
        if guidance_scale is None
        else {"guidance_scale": dict(zip(("lowest", "highest"), guidance_scale, strict=True))},
        seed=seed,
        numerics_version=1,
    )
    provenance = Provenance(
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        code_version="0",
        code_dirty=None,
        packages={},
        device="cpu",
        host="here",
        created_by="DistillFlow/1",
        configuration={},
        dataset_name=info.name,
    )
    return publish_checkpoint(store, folder / "weights.safetensors", description, provenance)
