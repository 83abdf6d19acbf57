"""Two processes train the same model as one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import PredictionType
from progdistill.jobs.local import LocalLauncher
from progdistill.jobs.result_cache import complete
from progdistill.jobs.spec import CheckpointOutput, GuideSpec, TrainBaseSpec, TrainingSpec
from progdistill.models.load import load_denoiser
from progdistill.registry.checkpoint import CheckpointKind, load_manifest
from progdistill.store.base import Store
from progdistill.training.guidance import GuidanceRange
from tests.jobs.asking import request_for
from tests.jobs.conftest import publish
from tests.training.conftest import settings, tiny


def trained(spec: TrainingSpec, store: Store, digits: DatasetInfo, folder: Path) -> dict[str, torch.Tensor]:
    """The weights that a job publishes."""
    result = complete(store, LocalLauncher(folder), request_for(spec, store, digits)).result
    manifest = load_manifest(store, result.output_of(CheckpointOutput).checkpoint_id)
    return dict(load_denoiser(store, manifest).state_dict())


@pytest.mark.parametrize("kind", ["base", pytest.param("guide", marks=pytest.mark.slow)])
def test_two_ranks_train_what_one_trains(
    kind: str, store: Store, digits: DatasetInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = tiny(label_dropout=True)
    teacher = publish(store, config, CheckpointKind.BASE).id
    weights = []
    for world_size in (1, 2):
        shared: dict[str, Any] = {
            "dataset_fingerprint": digits.fingerprint,
            "seed": 4,
            "world_size": world_size,
            "training": settings(4, ema_decay=0.9),
        }
        base = TrainBaseSpec(**shared, model=config, label_dropout=0.2)
        guide = GuideSpec(
            **shared,
            teacher=teacher,
            student_steps=4,
            prediction=PredictionType.V,
            guidance_scale=GuidanceRange(lowest=1, highest=5),
        )
        weights.append(trained(base if kind == "base" else guide, store, digits, tmp_path))
    one, two = weights
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-5)
