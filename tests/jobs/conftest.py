"""Small published models, and requests for jobs on real digits."""

from pathlib import Path
from typing import Any, runtime_checkable

import pytest

from progdistill.data.dataset import DatasetInfo, find_dataset
from progdistill.models.config import DenoiserConfig
from progdistill.models.denoiser import build_denoiser, save_weights, weights_of
from progdistill.registry.checkpoint import CheckpointKind, CheckpointManifest, publish_checkpoint
from progdistill.store.base import Store
from progdistill.store.open import open_store
from tests.registry.samples import description, provenance

# Annotations of progdistill.evaluation are checked while tests run, with isinstance.
runtime_checkable(Store)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def digits(data_root: Path) -> DatasetInfo:
    return find_dataset("digits", data_root)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def publish(
    store: Store, config: DenoiserConfig, kind: CheckpointKind = CheckpointKind.BASE, **changes: Any
) -> CheckpointManifest:
    """Publish an untrained model."""
    weights = store.scratch() / "weights.safetensors"
    save_weights(weights_of(build_denoiser(config, seed=0)), weights)
    facts = {"architecture": config.model_dump(mode="json"), "kind": kind} | changes
    if kind is CheckpointKind.STUDENT:
        facts["parent"] = "b" * 64
    return publish_checkpoint(store, weights, description(**facts), provenance())
