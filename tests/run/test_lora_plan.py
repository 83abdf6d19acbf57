"""LoRA students from `--set distill.lora.…` to plan, and refusals before anything starts."""

from pathlib import Path

import pytest

from progdistill.config.options import RunOptions
from progdistill.config.presets import PRESETS
from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.grid import TrailingGrid
from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.noise_schedules import DiscreteSchedule
from progdistill.errors import UsageError
from progdistill.models.config import DenoiserConfig, LoraConfig
from progdistill.registry.checkpoint import CheckpointKind
from progdistill.run.prepare import PreparedRun, prepare_run
from progdistill.store.base import Store
from tests.jobs.conftest import publish

RANK = ("distill.lora.rank=4",)


@pytest.fixture(autouse=True)
def _data(data_root: Path, digits: DatasetInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGDISTILL_DATA", str(data_root))


def plan(store: Store, **options: object) -> PreparedRun:
    return prepare_run(RunOptions.model_validate({"store": store.uri, "dataset": "digits", **options}))


def test_the_plan_states_the_parameters_of_the_adapter(store: Store) -> None:
    full, lora = plan(store), plan(store, set=RANK)
    parameters = lora.adapter_parameters
    assert full.adapter_parameters is None and parameters is not None and 0 < parameters < lora.parameters
    assert f"students are LoRAs of rank 4, {parameters:,} parameters each" in lora.describe()
    assert lora.facts()["adapter_parameters"] == parameters
    assert lora.disk_bytes < full.disk_bytes
    more = plan(store, set=(*RANK, 'distill.lora.targets=["conv1","conv2"]'))
    assert more.adapter_parameters is not None and more.adapter_parameters < parameters


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"set": (*RANK, 'distill.lora.targets=["to_k"]')}, "no linear layer or convolution 'to_k'"),
        ({"set": ("distill.lora.rank=0",)}, "distill.lora.rank = 0"),
        ({"set": (*RANK, "distill.lora.alpha=0")}, "distill.lora.alpha = 0"),
        ({"set": (*RANK, "distill.prediction=x_eps")}, "a LoRA cannot change them"),
        ({"set": (*RANK, "compute.parallelism=fsdp")}, "compute.parallelism=fsdp is not for LoRA students"),
        ({"set": RANK, "guidance_scale": "1:5"}, "one scale folded in.*--guidance-scale 5"),
    ],
)
def test_what_an_adapter_cannot_do_is_refused(options: dict[str, object], words: str, store: Store) -> None:
    with pytest.raises(UsageError, match=words):
        plan(store, **options)


def test_one_scale_is_folded_into_the_adapter(store: Store) -> None:
    run = plan(store, set=RANK, guidance_scale="5")
    assert run.settings.has_guided_stage and run.settings.folds_guidance
    assert "with guidance scale 5 folded in" in run.describe()
    with pytest.raises(UsageError, match="students of this run are not guided by it"):
        plan(store, set=(*RANK, "evaluation.guidance_scale=5"), guidance_scale="5")


def test_adapters_of_an_eps_model_predict_eps_with_a_loss_weight_that_does_not_diverge(store: Store) -> None:
    """As those of Stable Diffusion and SDXL with the settings for latent models."""
    schedule = DiscreteSchedule(kind="scaled_linear", beta_start=0.00085, beta_end=0.012)
    changes = {"prediction": PredictionType.EPS, "foreign_schedule": schedule, "grid": TrailingGrid(schedule=schedule)}
    teacher = publish(store, PRESETS["digits"].model.model_copy(update=changes), CheckpointKind.IMPORTED).id
    given = {"start_from": teacher, "preset": "latent", "ladder": "8:1"}
    lora, full = plan(store, set=RANK, **given).settings, plan(store, **given).settings
    assert (lora.student_prediction, lora.distill.loss_weight) == ("eps", "snr")
    assert (full.student_prediction, full.distill.loss_weight) == ("v", "truncated_snr")
    with pytest.raises(UsageError, match="diverges"):
        plan(store, set=(*RANK, "distill.loss_weight=truncated_snr"), **given)


def student_of_a_base(store: Store, **changes: object) -> str:
    config = PRESETS["digits"].model.model_copy(update=changes)
    return publish(store, config, CheckpointKind.STUDENT, sampling_steps=8).id


def test_students_of_a_lora_keep_its_shape(store: Store) -> None:
    lora = LoraConfig(base="c" * 64, rank=8, alpha=8.0)
    teacher = student_of_a_base(store, lora=lora)
    kept = ("distill.lora.rank=8",)
    assert plan(store, start_from=teacher, set=kept).adapter_parameters is not None
    assert plan(store, start_from=teacher).adapter_parameters is None
    with pytest.raises(UsageError, match="the teacher is a LoRA of rank 8"):
        plan(store, start_from=teacher, set=RANK)


def test_students_of_a_model_with_guidance_folded_in_keep_its_scale(store: Store) -> None:
    teacher = student_of_a_base(store, folded_guidance_scale=5.0)
    run = plan(store, start_from=teacher, guidance_scale="5")
    assert run.settings.guidance_scale is None and not run.settings.has_guided_stage
    with pytest.raises(UsageError, match="has guidance scale 5 folded in, which its students keep"):
        plan(store, start_from=teacher, guidance_scale="1:5")


def test_an_imported_model_with_a_guidance_input_asks_for_the_scales(store: Store) -> None:
    model = PRESETS["digits"].model
    network = model.network.model_copy(update={"guidance_input": True})
    imported = publish(store, DenoiserConfig(network=network, prediction=model.prediction), CheckpointKind.IMPORTED)
    with pytest.raises(UsageError, match="say which ones its students learn"):
        plan(store, start_from=imported.id)
    run = plan(store, start_from=imported.id, guidance_scale="1:5")
    assert run.settings.guidance_scale is not None and not run.settings.has_guided_stage
