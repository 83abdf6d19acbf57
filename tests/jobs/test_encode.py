"""Encoding a dataset: what it holds, on any number of ranks, interrupted or not."""

from pathlib import Path

import numpy as np
import pytest
import torch

from progdistill.data import shards
from progdistill.data.columns import Column
from progdistill.data.dataset import DatasetInfo, find_dataset, manifest_of
from progdistill.data.encoding import EncodingStage
from progdistill.data.loader import TrainingLoader, normalized
from progdistill.data.prepare import prepare
from progdistill.data.reading import read_columns, read_split, read_unconditional, verify_dataset
from progdistill.errors import UsageError
from progdistill.jobs import encode
from progdistill.jobs.local import LocalLauncher
from progdistill.jobs.result_cache import complete
from progdistill.jobs.spec import DatasetOutput, EncodeSpec
from progdistill.models.codec import LatentCodec, PromptEncoder
from progdistill.registry.pipeline import PipelineManifest, fetch_pipeline, publish_pipeline
from progdistill.store.base import Store
from progdistill.store.local import LocalStore
from progdistill.store.open import open_store
from progdistill.training.distributed import Rank
from tests.data.datasets import CaptionedSource
from tests.jobs.asking import request_for
from tests.models.pipelines import PIPELINES
from tests.models.test_codec import facts_of
from tests.store.s3_server import s3_endpoint, s3_uri

__all__ = ["s3_endpoint", "s3_uri"]

IMAGES = 23
PROMPTS = (Column(name="prompt_embeds", shape=(77, 32)),)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return LocalStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory, store: Store) -> PipelineManifest:
    folder = tmp_path_factory.mktemp("pipeline")
    stock = PIPELINES["sd"](folder)
    kept = {path for path in folder.rglob("*") if path.is_file() and path.parent.name != "unet"}
    return publish_pipeline(store, facts_of(stock, "sd"), {str(path.relative_to(folder)): path for path in kept})


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    folder = tmp_path_factory.mktemp("captioned")
    prepare(CaptionedSource(IMAGES, size=16), "captioned", str(folder / "captioned"), staging_root=folder)
    return find_dataset(str(folder / "captioned"), folder)


@pytest.fixture
def spec(
    captioned: DatasetInfo, pipeline: PipelineManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> EncodeSpec:
    """Shards of 6 samples."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 6 * 4 * (77 * 32 + 2 * 4 * 8 * 8) + 6 * 128)
    return EncodeSpec(
        dataset_fingerprint=captioned.fingerprint,
        seed=0,
        name="encoded",
        out=str(tmp_path / "encoded"),
        pipeline=pipeline.id,
        sample_shape=(4, 8, 8),
        columns=PROMPTS,
        template=None,
        batch_size=4,
    )


def encoded(spec: EncodeSpec, store: Store, captioned: DatasetInfo) -> DatasetInfo:
    """Encode in this process, on one rank."""
    output = encode.run_encoding(spec, request_for(spec, store, captioned), store, Rank("cpu", 1))
    assert isinstance(output, DatasetOutput)
    return find_dataset(output.location, Path(output.location))


def test_an_encoded_dataset_holds_what_the_encoders_give(
    spec: EncodeSpec, store: Store, captioned: DatasetInfo, pipeline: PipelineManifest
) -> None:
    info = encoded(spec, store, captioned)
    verify_dataset(info)
    folder = fetch_pipeline(store, pipeline.id)
    images, labels = read_split(captioned, "train")
    found = read_columns(info, "train", info.stored_columns)
    codec, prompts = LatentCodec(folder, pipeline.facts), PromptEncoder(folder, pipeline.facts)
    mean, std = codec.encode(normalized(torch.from_numpy(images).permute(0, 3, 1, 2)))
    assert std is not None
    assert np.allclose(found["latent_mean"], mean.numpy(), atol=1e-5)
    assert np.allclose(found["latent_std"], std.numpy(), atol=1e-5)
    assert np.array_equal(found["label"], labels)
    captions = [f"image {int(image[0, 0, 0])}" for image in images]
    wanted = prompts.encode(captions)["prompt_embeds"]
    assert np.allclose(found["prompt_embeds"], wanted.numpy(), atol=1e-5)
    empty = read_unconditional(info)
    assert empty is not None
    assert np.allclose(empty["prompt_embeds"], prompts.unconditional()["prompt_embeds"].numpy(), atol=1e-6)
    statistics = manifest_of(info).statistics["train"]
    assert statistics.mean == pytest.approx(mean.double().mean(dim=(0, 2, 3)).tolist(), rel=1e-3, abs=1e-4)
    assert info.sample_shape == (4, 8, 8) and info.encoded_by == pipeline.id and not info.image_size
    batch = TrainingLoader(info, batch_size=8, seed=0, flip=False).batch(0)
    assert batch.x is not None and batch.x.shape == (8, 4, 8, 8)
    assert set(batch.conditioning) == {"label", "prompt_embeds"}


def test_the_result_is_one_dataset_however_often_and_wherever_it_is_made(
    spec: EncodeSpec, store: Store, captioned: DatasetInfo, tmp_path: Path
) -> None:
    first = encoded(spec, store, captioned)
    assert encoded(spec, store, captioned).fingerprint == first.fingerprint
    other = encoded(spec.model_copy(update={"out": str(tmp_path / "other")}), store, captioned)
    assert other.fingerprint == first.fingerprint
    with pytest.raises(UsageError, match="holds another dataset"):
        encoded(spec.model_copy(update={"negative_prompt": "blurry"}), store, captioned)


def test_an_interrupted_encoding_resumes_after_its_finished_shards(
    spec: EncodeSpec, store: Store, captioned: DatasetInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = EncodingStage.write, []

    def interrupted(stage: EncodingStage, name: str, *arguments: object) -> None:
        written.append(name)
        if len(written) == 4:
            raise KeyboardInterrupt
        write(stage, name, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(EncodingStage, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encoded(spec, store, captioned)
    assert not (tmp_path / "encoded").exists()
    monkeypatch.setattr(
        EncodingStage, "write", lambda stage, name, *rest: (written.append(name), write(stage, name, *rest))
    )
    info = encoded(spec, store, captioned)
    assert written == ["unconditional", "train-00000", "train-00001", "train-00002", "train-00002", "train-00003"]
    whole = encoded(spec.model_copy(update={"out": str(tmp_path / "whole")}), store, captioned)
    assert info.fingerprint == whole.fingerprint
    assert sorted(path.name for path in (tmp_path / "encoded").iterdir()) == [
        "manifest.json",
        *(f"train-{number:05d}.arrow" for number in range(4)),
        "unconditional.arrow",
    ]


def test_long_prompts_are_counted_and_said_once(
    spec: EncodeSpec, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = CaptionedSource(5, size=16, captions=["short", "x" * 100, "y" * 80, "fine", "ok"])
    prepare(source, "long", str(tmp_path / "long"), staging_root=tmp_path)
    info = find_dataset(str(tmp_path / "long"), tmp_path)
    made = encoded(spec.model_copy(update={"dataset_fingerprint": info.fingerprint}), store, info)
    assert manifest_of(made).prepared_from.cut_prompts == 2
    said = [record.getMessage() for record in caplog.records if "longer than" in record.getMessage()]
    assert said == ["note: 2 of 5 prompts are longer than the text encoder takes, and were cut"]


def test_class_names_make_prompts(spec: EncodeSpec, store: Store, captioned: DatasetInfo) -> None:
    info = encoded(spec.model_copy(update={"template": "a photo of {class}"}), store, captioned)
    found = read_columns(info, "train", info.stored_columns)
    for label in (0, 1):
        rows = found["prompt_embeds"][found["label"] == label]
        assert (rows == rows[0]).all()
    assert not (found["prompt_embeds"][0] == found["prompt_embeds"][found["label"] != found["label"][0]][0]).all()


def test_images_of_another_size_than_the_networks_are_refused(spec: EncodeSpec, store: Store, tmp_path: Path) -> None:
    prepare(CaptionedSource(3, size=8), "small", str(tmp_path / "small"), staging_root=tmp_path)
    info = find_dataset(str(tmp_path / "small"), tmp_path)
    with pytest.raises(UsageError, match=r"latents of \(4, 4, 4\), .* takes \(4, 8, 8\): .* --image-size 16"):
        encoded(spec, store, info)


@pytest.mark.slow
def test_two_ranks_in_processes_of_their_own_give_equal_data(
    spec: EncodeSpec, store: Store, captioned: DatasetInfo, tmp_path: Path
) -> None:
    def launched(out: str, world_size: int) -> str:
        own = spec.model_copy(update={"out": str(tmp_path / out), "world_size": world_size})
        request = request_for(own, store, captioned)
        found = complete(store, LocalLauncher(tmp_path / "jobs"), request).result.output_of(DatasetOutput)
        assert complete(store, LocalLauncher(tmp_path / "jobs"), request).reused
        return found.fingerprint

    assert launched("one", 1) == launched("two", 2)


@pytest.mark.slow
def test_a_model_and_prompts_are_enough_to_distill(
    spec: EncodeSpec, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Import a pipeline, encode a file of prompts, and train a student on the teacher's trajectories."""
    from progdistill.cli.main import main
    from progdistill.jobs.spec import CheckpointOutput, DistillSpec
    from progdistill.jobs.train import run_training
    from progdistill.registry.resolve import resolve_reference
    from progdistill.training.config import StatesFrom
    from tests.training.conftest import settings

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROGDISTILL_DATA", "data")
    PIPELINES["sd"](tmp_path / "sd")
    Path("prompts.txt").write_text("a cat\na dog\nsnow on a roof\n")
    assert main(["import", "sd", "--name", "teacher", "--store", store.uri]) == 0
    assert main(["data", "prepare", "prompts", "--source", "prompts.txt"]) == 0
    assert main(["data", "encode", "prompts", "--pipeline", "teacher", "--store", store.uri]) == 0
    info = find_dataset("prompts-encoded", Path("data"))
    assert info.sample_shape is None and info.has_unconditional
    teacher = resolve_reference(store, "teacher")
    for states in (StatesFrom.TEACHER, StatesFrom.STUDENT):
        job = DistillSpec(
            dataset_fingerprint=info.fingerprint,
            seed=0,
            teacher=teacher.id,
            student_steps=4,
            prediction="v",
            training=settings(2, batch_size=4),
            states_from=states,
            trajectory_steps=8,
        )
        output = run_training(job, request_for(job, store, info), store, Rank("cpu", 1), lambda: False)
        assert isinstance(output, CheckpointOutput)
        manifest = resolve_reference(store, output.checkpoint_id)
        assert manifest.identity.training["states_from"] == str(states)
        assert manifest.provenance.figures is not None and manifest.provenance.figures.final_loss is not None


@pytest.mark.slow
def test_a_bucket_gets_the_same_dataset_and_nothing_else(
    spec: EncodeSpec, store: Store, captioned: DatasetInfo, s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = encoded(spec, store, captioned)
    remote = spec.model_copy(update={"out": s3_uri})
    write, written = EncodingStage.write, []

    def interrupted(stage: EncodingStage, name: str, *arguments: object) -> None:
        written.append(name)
        if len(written) == 3:
            raise KeyboardInterrupt
        write(stage, name, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(EncodingStage, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encoded(remote, store, captioned)
    info = encoded(remote, store, captioned)
    assert info.fingerprint == local.fingerprint
    verify_dataset(info)
    keys = [item.key for item in open_store(s3_uri).list("")]
    assert keys == ["manifest.json", *(f"train-{number:05d}.arrow" for number in range(4)), "unconditional.arrow"]
