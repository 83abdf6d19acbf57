"""Guidance of a text model: the empty prompt of its dataset, a scale as an input or folded in."""

import json
from typing import Any

import pytest
import torch

from progdistill.data.columns import Column
from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import LossWeight, PredictionType
from progdistill.diffusion.noise_schedules import DiscreteSchedule
from progdistill.jobs import train as training
from progdistill.jobs import worker
from progdistill.jobs.spec import CheckpointOutput, DistillSpec, GuideSpec, JobResult, TrainBaseSpec
from progdistill.models.conditioning import Conditioning
from progdistill.models.config import DenoiserConfig
from progdistill.models.denoiser import build_denoiser, save_weights, weights_of
from progdistill.models.load import load_denoiser
from progdistill.models.networks.unet_condition import UNetCondition
from progdistill.registry.checkpoint import CheckpointKind, CheckpointManifest, load_manifest, publish_checkpoint
from progdistill.store.base import Store
from progdistill.store.documents import read_record
from progdistill.store.layout import job_result_key
from progdistill.training.config import LoraSettings
from progdistill.training.distributed import Rank
from progdistill.training.guidance import GuidanceRange, can_be_guided
from progdistill.training.objective import BaseObjective
from progdistill.training.random import BatchRandom
from tests.data.datasets import encoded_dataset
from tests.jobs.asking import request_for
from tests.models.pipelines import stable_diffusion
from tests.registry.samples import description, provenance
from tests.training.conftest import settings

PROMPT = Column(name="prompt_embeds", shape=(77, 32))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DenoiserConfig:
    folder = tmp_path_factory.mktemp("sd")
    stable_diffusion(folder)
    network = UNetCondition.describe(json.loads((folder / "unet" / "config.json").read_text()), 8, 77)
    schedule = DiscreteSchedule(kind="linear", steps=1000, beta_start=1e-4, beta_end=0.02)
    return DenoiserConfig(network=network, prediction=PredictionType.V, foreign_schedule=schedule)


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    latent = Column(name="latent_mean", shape=(4, 8, 8))
    return encoded_dataset(tmp_path_factory.mktemp("data"), [latent, PROMPT], count=8, rows_per_shard=8)


@pytest.fixture
def base(store: Store, config: DenoiserConfig) -> CheckpointManifest:
    weights = store.scratch() / "base.safetensors"
    save_weights(weights_of(build_denoiser(config, seed=0)), weights)
    facts = description(architecture=config.model_dump(mode="json"), kind=CheckpointKind.IMPORTED)
    return publish_checkpoint(store, weights, facts, provenance())


def guided(store: Store, base: CheckpointManifest, encoded: DatasetInfo, **changes: Any) -> CheckpointManifest:
    facts: dict[str, Any] = {
        "dataset_fingerprint": encoded.fingerprint,
        "seed": 4,
        "teacher": base.id,
        "student_steps": 2,
        "prediction": PredictionType.V,
        "training": settings(2, batch_size=4),
    }
    spec = GuideSpec(**facts | changes) if "guidance_scale" in changes else DistillSpec(**facts | changes)
    worker.run_job(request_for(spec, store, encoded), Rank("cpu", 1), lambda: False)
    result = read_record(store, job_result_key(spec.id), JobResult)
    assert result is not None
    return load_manifest(store, result.output_of(CheckpointOutput).checkpoint_id)


def test_the_scale_is_an_input_where_stock_pipelines_pass_it(
    store: Store, base: CheckpointManifest, encoded: DatasetInfo
) -> None:
    assert can_be_guided(base)
    student = guided(store, base, encoded, guidance_scale=GuidanceRange(lowest=1, highest=5))
    denoiser = load_denoiser(store, student)
    assert denoiser.config.network.guidance_input and denoiser.config.folded_guidance_scale is None
    projection = denoiser.network.get_parameter("time_embedding.cond_proj.weight")
    assert projection.abs().max() > 0
    assert not can_be_guided(student)


@pytest.mark.parametrize("frozen_precision", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_an_adapter_has_one_scale_folded_in(
    frozen_precision: str, store: Store, base: CheckpointManifest, encoded: DatasetInfo
) -> None:
    changes: dict[str, Any] = {"lora": LoraSettings(rank=2), "frozen_precision": frozen_precision}
    first = guided(store, base, encoded, guidance_scale=GuidanceRange(lowest=5, highest=5), **changes)
    second = guided(store, first, encoded, student_steps=1, **changes)
    for student in (first, second):
        found = DenoiserConfig.of(student.identity)
        assert found.folded_guidance_scale == 5 and not found.network.guidance_input
        assert student.identity.base == base.id
    weights = [load_denoiser(store, manifest).state_dict() for manifest in (base, first, second)]
    changed = "network.mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight"
    assert len({tensors[changed].sum().item() for tensors in weights}) == 3


def test_a_base_model_is_trained_with_a_share_of_empty_prompts(
    store: Store, config: DenoiserConfig, encoded: DatasetInfo
) -> None:
    empty = training._unconditional(encoded, config, torch.device("cpu"))
    model, seen = build_denoiser(config, seed=0), []

    def network(z: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        seen.append(conditioning["prompt_embeds"])
        return torch.zeros_like(z)

    draws = BatchRandom(torch.Generator().manual_seed(1), 400)
    rows = {"prompt_embeds": torch.ones(400, *PROMPT.shape)}
    objective = BaseObjective(LossWeight.SNR_PLUS_ONE, 0.25, empty)
    objective(model, network, torch.zeros(400, 4, 8, 8), rows, draws)  # type: ignore[arg-type]
    dropped = (seen[0] == -1).all(dim=(1, 2))
    assert 70 < int(dropped.sum()) < 130
    assert bool((seen[0][~dropped] == 1).all())


def test_a_text_model_trained_here_can_be_guided(store: Store, config: DenoiserConfig, encoded: DatasetInfo) -> None:
    shared: dict[str, Any] = {"dataset_fingerprint": encoded.fingerprint, "seed": 4}
    spec = TrainBaseSpec(**shared, model=config, training=settings(2, batch_size=4), label_dropout=0.5)
    worker.run_job(request_for(spec, store, encoded), Rank("cpu", 1), lambda: False)
    result = read_record(store, job_result_key(spec.id), JobResult)
    assert result is not None
    assert can_be_guided(load_manifest(store, result.output_of(CheckpointOutput).checkpoint_id))


def test_without_a_condition_means_the_empty_prompt_of_the_dataset(
    store: Store, base: CheckpointManifest, encoded: DatasetInfo, config: DenoiserConfig
) -> None:
    found = training._unconditional(encoded, config, torch.device("cpu"))
    assert found is not None and found["prompt_embeds"].shape == (1, *PROMPT.shape)
    assert bool((found["prompt_embeds"] == -1).all())
    rows = {"prompt_embeds": torch.ones(3, *PROMPT.shape)}
    assert bool((load_denoiser(store, base).without_condition(rows, found)["prompt_embeds"] == -1).all())
