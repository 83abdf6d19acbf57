"""Jobs that train LoRA students: from stage to stage, over interruptions and ranks, to checkpoints like all others."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from progdistill.cli.main import main
from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import PredictionType
from progdistill.errors import Interrupted
from progdistill.jobs import worker
from progdistill.jobs.local import LocalLauncher
from progdistill.jobs.result_cache import complete
from progdistill.jobs.spec import CheckpointOutput, DistillSpec, GuideSpec, JobResult
from progdistill.models.config import DenoiserConfig
from progdistill.models.denoiser import build_denoiser, save_weights, weights_of
from progdistill.models.load import load_denoiser
from progdistill.registry.checkpoint import (
    CheckpointKind,
    CheckpointManifest,
    fetch_weights,
    load_manifest,
    publish_checkpoint,
)
from progdistill.registry.gc import find_garbage
from progdistill.store.base import Store
from progdistill.store.documents import read_record
from progdistill.store.layout import checkpoint_key, job_result_key
from progdistill.store.open import open_store
from progdistill.training.config import LoraSettings, SnapshotSettings
from progdistill.training.distributed import Rank
from progdistill.training.guidance import GuidanceRange
from tests.jobs.asking import request_for
from tests.models.conftest import randomize
from tests.registry.samples import description, provenance
from tests.training.conftest import settings, tiny

LORA = LoraSettings(rank=2)


def spec_of(teacher: str, digits: DatasetInfo, steps: int = 4, **changes: Any) -> DistillSpec:
    facts: dict[str, Any] = {
        "dataset_fingerprint": digits.fingerprint,
        "seed": 4,
        "teacher": teacher,
        "student_steps": steps,
        "prediction": PredictionType.V,
        "training": settings(4, ema_decay=0.9),
        "lora": LORA,
    }
    return DistillSpec(**facts | changes)


def trained(spec: DistillSpec | GuideSpec, store: Store, digits: DatasetInfo, **changes: Any) -> CheckpointManifest:
    """Train in this process; the published student."""
    worker.run_job(request_for(spec, store, digits, **changes), Rank("cpu", 1), lambda: False)
    result = read_record(store, job_result_key(spec.id), JobResult)
    assert result is not None
    return load_manifest(store, result.output_of(CheckpointOutput).checkpoint_id)


def held(store: Store, manifest: CheckpointManifest) -> dict[str, Tensor]:
    return load_file(fetch_weights(store, manifest))


def published_base(store: Store) -> CheckpointManifest:
    """A base whose last layers are not zero as those of untrained ones, through which no gradient passes."""
    config, weights = tiny(label_dropout=True), store.scratch() / "base.safetensors"
    save_weights(weights_of(randomize(build_denoiser(config, seed=0))), weights)
    facts = description(architecture=config.model_dump(mode="json"), kind=CheckpointKind.BASE)
    return publish_checkpoint(store, weights, facts, provenance())


@pytest.fixture
def base(store: Store) -> CheckpointManifest:
    return published_base(store)


def test_two_stages_are_two_adapters_on_the_first_teacher(
    base: CheckpointManifest, store: Store, digits: DatasetInfo
) -> None:
    first = trained(spec_of(base.id, digits), store, digits)
    second = trained(spec_of(first.id, digits, 2), store, digits)
    for student in (first, second):
        lora = DenoiserConfig.of(student.identity).lora
        assert lora is not None and (lora.base, lora.rank, lora.alpha) == (base.id, 2, 2.0)
        assert student.identity.weights.size_bytes < base.identity.weights.size_bytes
        assert all(".lora_" in name for name in held(store, student))
    assert second.identity.parent == first.id
    start = load_denoiser(store, base).state_dict()
    names = [load_denoiser(store, student).state_dict() for student in (first, second)]
    assert all(found.keys() == start.keys() for found in names)
    assert not torch.equal(*(found["network.mid_block.resnets.0.conv1.weight"] for found in names))
    assert torch.equal(names[1]["network.conv_in.weight"], start["network.conv_in.weight"])


@pytest.mark.slow
def test_the_next_stage_starts_as_a_copy_of_its_teacher(
    base: CheckpointManifest, store: Store, digits: DatasetInfo
) -> None:
    first = trained(spec_of(base.id, digits), store, digits)
    still = settings(1, learning_rate=1e-12)
    second = trained(spec_of(first.id, digits, 2, training=still), store, digits)
    before, after = held(store, first), held(store, second)
    assert all(torch.allclose(before[name], tensor, atol=1e-9) for name, tensor in after.items())


def test_a_stopped_training_goes_on_to_the_very_same_adapter(
    base: CheckpointManifest, store: Store, digits: DatasetInfo, tmp_path: Path
) -> None:
    spec = spec_of(base.id, digits, training=settings(6, ema_decay=0.9))
    other = open_store(str(tmp_path / "other"))
    assert published_base(other).id == base.id
    unbroken = trained(spec, other, digits)
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        worker.run_job(request_for(spec, store, digits), Rank("cpu", 1), lambda: next(calls) == 2)
    snapshots = [item for item in store.list("snapshots/") if item.key.endswith(".safetensors")]
    assert sum(item.size_bytes for item in snapshots) < 5 * unbroken.identity.weights.size_bytes
    again = trained(spec, store, digits, snapshots=SnapshotSettings(interval_updates=1))
    assert again.id == unbroken.id


@pytest.mark.slow
def test_two_ranks_train_what_one_trains(
    base: CheckpointManifest, store: Store, digits: DatasetInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    first = trained(spec_of(base.id, digits), store, digits)
    found = []
    for world_size in (1, 2):
        spec = spec_of(first.id, digits, 2, world_size=world_size)
        result = complete(store, LocalLauncher(tmp_path), request_for(spec, store, digits)).result
        found.append(held(store, load_manifest(store, result.output_of(CheckpointOutput).checkpoint_id)))
    one, two = found
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-5)


def test_a_guided_stage_folds_one_scale_into_the_adapter(
    base: CheckpointManifest, store: Store, digits: DatasetInfo
) -> None:
    facts = spec_of(base.id, digits).model_dump(exclude={"kind", "teacher_steps"})
    guided = trained(GuideSpec(**facts | {"guidance_scale": GuidanceRange(lowest=3, highest=3)}), store, digits)
    config = DenoiserConfig.of(guided.identity)
    assert config.folded_guidance_scale == 3 and not config.network.guidance_input
    next_one = trained(spec_of(guided.id, digits, 2), store, digits)
    assert DenoiserConfig.of(next_one.identity).folded_guidance_scale == 3


@pytest.mark.parametrize("lora", [LORA, pytest.param(None, marks=pytest.mark.slow)])
def test_frozen_weights_may_be_in_half_precision(
    lora: LoraSettings | None, base: CheckpointManifest, store: Store, digits: DatasetInfo
) -> None:
    full = trained(spec_of(base.id, digits, lora=lora), store, digits)
    half = trained(spec_of(base.id, digits, lora=lora, frozen_precision="bfloat16"), store, digits)
    assert full.id != half.id and half.identity.training["frozen_precision"] == "bfloat16"
    for name, tensor in held(store, full).items():
        assert held(store, half)[name].dtype == torch.float32
        torch.testing.assert_close(held(store, half)[name], tensor, rtol=0, atol=0.02)


def test_garbage_collection_keeps_the_base(base: CheckpointManifest, store: Store, digits: DatasetInfo) -> None:
    student = trained(spec_of(base.id, digits), store, digits)
    assert checkpoint_key(base.id) in set(student.references())
    assert not find_garbage(store).objects


def test_without_its_base_a_lora_is_refused_with_the_line_that_imports_it(
    base: CheckpointManifest, store: Store, digits: DatasetInfo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = trained(spec_of(base.id, digits), store, digits)
    other = str(tmp_path / "other")
    line = ["import", student.id, "--from-store", store.uri, "--name", "fast", "--store", other]
    assert main(line) == 2
    said = capsys.readouterr().err
    assert base.id in said and f"progdistill import {base.id[:12]} --from-store" in said
    assert main(["import", base.id, "--from-store", store.uri, "--name", "slow", "--store", other]) == 0
    assert main(line) == 0
    found, wanted = (load_denoiser(place, student).state_dict() for place in (open_store(other), store))
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
