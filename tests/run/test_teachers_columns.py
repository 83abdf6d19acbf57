"""Whether a dataset has what the teacher's network takes: images, latents, classes, columns of its own encoders."""

from pathlib import Path
from typing import Any

import pytest

from progdistill.cli.main import main
from progdistill.config.options import RunOptions
from progdistill.config.presets import PRESETS
from progdistill.data.catalog import UNKNOWN_DATASET
from progdistill.data.columns import Column
from progdistill.errors import UsageError
from progdistill.models.config import DenoiserConfig, DiffusersConfig
from progdistill.registry.checkpoint import CheckpointKind, publish_checkpoint
from progdistill.registry.pipeline import PipelineFacts, publish_pipeline
from progdistill.run.prepare import PreparedRun, prepare_run
from progdistill.store.base import Store
from tests.data.datasets import encoded_dataset
from tests.jobs.conftest import publish
from tests.registry.samples import description, provenance, weights_file

EMBEDS = Column(name="prompt_embeds", shape=(3, 5))
LATENTS = (Column(name="latent_mean", shape=(4, 2, 2)), Column(name="latent_std", shape=(4, 2, 2)))


@pytest.fixture(autouse=True)
def _data(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGDISTILL_DATA", str(tmp_path / "data"))


def pipeline(store: Store, folder: Path, vae: str, tokenizer: str = "words") -> str:
    """Publish a pipeline whose files are these texts; its id."""
    files = {"vae/weights.safetensors": vae, "tokenizer/vocab.json": tokenizer, "scheduler/scheduler_config.json": vae}
    paths = {}
    for name, text in files.items():
        paths[name] = folder / f"{vae}-{tokenizer}" / name
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        paths[name].write_text(text)
    facts = PipelineFacts(
        class_name="StableDiffusionPipeline", family="sd", latent_scale=1, vae_factor=8, max_prompt_tokens=77
    )
    return publish_pipeline(store, facts, paths).id


def plan(store: Store, folder: Path, pipeline_id: str, dataset: str, **options: Any) -> PreparedRun:
    """The plan of a run from an imported text-to-image teacher with that pipeline."""
    network = DiffusersConfig(
        class_name="UNet2DConditionModel", arguments={}, sample_shape=(4, 2, 2), columns=(EMBEDS,), parameters=1
    )
    config = DenoiserConfig(network=network, prediction="v", pipeline=pipeline_id)
    identity = description(
        kind=CheckpointKind.IMPORTED,
        prediction="v",
        architecture=config.model_dump(mode="json"),
        dataset_fingerprint=UNKNOWN_DATASET,
    )
    teacher = publish_checkpoint(store, weights_file(folder), identity, provenance())
    given = {"store": store.uri, "start_from": teacher.id, "dataset": dataset, "ladder": "4:1", **options}
    return prepare_run(RunOptions.model_validate(given))


def refused(match: str) -> Any:
    return pytest.raises(UsageError, match=match)


def encoded(folder: Path, encoded_by: str, *columns: Column) -> str:
    return encoded_dataset(folder, columns, 20, 10, encoded_by=encoded_by).location


def test_an_encoding_by_another_vae_is_refused_with_both_digests(store: Store, tmp_path: Path) -> None:
    own, other = pipeline(store, tmp_path, "ours"), pipeline(store, tmp_path, "theirs")
    location = encoded(tmp_path, other, *LATENTS, EMBEDS)
    digest = r"SHA-256 [0-9a-f]{64}, the teacher's [0-9a-f]{64}"
    with refused(rf"vae/weights.safetensors has {digest}: encode it again"):
        plan(store, tmp_path, own, location)
    # Where latents are not used, their VAE does not matter.
    states = {"set": ("distill.states_from=student",)}
    assert plan(store, tmp_path, own, location, **states).settings.distill.states_from == "student"


def test_an_encoding_by_another_tokenizer_is_refused_and_the_teachers_own_is_not(store: Store, tmp_path: Path) -> None:
    own, other = pipeline(store, tmp_path, "vae"), pipeline(store, tmp_path, "vae", "others")
    location = encoded(tmp_path, other, *LATENTS, EMBEDS)
    with refused("tokenizer/vocab.json has SHA-256"):
        plan(store, tmp_path, own, location, set=("distill.states_from=teacher",))
    assert plan(store, tmp_path, other, location).dataset.encoded_by == other


def test_columns_that_the_network_takes_must_be_there(store: Store, tmp_path: Path) -> None:
    own = pipeline(store, tmp_path, "vae")
    with refused(r"conditioned on prompt_embeds, which dataset encoded does not have .*progdistill data encode"):
        plan(store, tmp_path, own, encoded(tmp_path, own, *LATENTS))


def test_prompts_alone_need_states_of_a_trajectory(store: Store, tmp_path: Path) -> None:
    own = pipeline(store, tmp_path, "vae")
    location = encoded(tmp_path, own, EMBEDS)
    with refused("has none of 10: without images, set distill.states_from=teacher"):
        plan(store, tmp_path, own, location)
    assert plan(store, tmp_path, own, location, set=("distill.states_from=teacher",)).dataset.sample_shape is None


def test_classes_alone_are_enough_for_a_model_of_pixels(store: Store) -> None:
    assert main(["data", "prepare", "ten", "--classes", "10"]) == 0
    teacher = publish(store, PRESETS["digits"].model, CheckpointKind.BASE, dataset_fingerprint="f" * 64)
    given = {"store": store.uri, "start_from": teacher.id, "dataset": "ten", "ladder": "4:1"}
    with refused("set distill.states_from=teacher"):
        prepare_run(RunOptions.model_validate(given))
    run = prepare_run(RunOptions.model_validate(given | {"set": ("distill.states_from=teacher",)}))
    assert run.dataset.num_classes == 10


def test_a_base_model_is_not_trained_without_images(store: Store) -> None:
    assert main(["data", "prepare", "ten", "--classes", "10"]) == 0
    with refused("dataset ten has no images to train a base model on: give a model with --from"):
        prepare_run(RunOptions.model_validate({"store": store.uri, "dataset": "ten"}))
