"""What a latent model needs beside its network is kept with it, and comes back as a folder."""

import shutil
from pathlib import Path

import pytest

from progdistill.errors import LostInvariantError, UsageError
from progdistill.registry.aliases import move_alias
from progdistill.registry.checkpoint import publish_checkpoint
from progdistill.registry.gc import find_garbage, remove_garbage
from progdistill.registry.pipeline import (
    PipelineFacts,
    PipelineManifest,
    copy_pipeline,
    fetch_pipeline,
    load_pipeline,
    publish_pipeline,
)
from progdistill.store.base import Store
from progdistill.store.layout import blob_key
from progdistill.store.open import open_store
from tests.registry.samples import description, provenance
from tests.registry.test_gc import age

FACTS = PipelineFacts(
    class_name="StableDiffusionPipeline", family="sd", latent_scale=0.18215, vae_factor=8, max_prompt_tokens=77
)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Two files by their path inside the folder; one is a link, as in a download of the Hub."""
    (tmp_path / "weights").write_bytes(b"weights")
    (tmp_path / "link").symlink_to(tmp_path / "weights")
    (tmp_path / "index").write_bytes(b"{}")
    return {"vae/model.safetensors": tmp_path / "link", "model_index.json": tmp_path / "index"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGDISTILL_CACHE", str(tmp_path / "cache"))


def test_a_pipeline_comes_back_as_the_folder_it_was(store: Store, files: dict[str, Path]) -> None:
    manifest = publish_pipeline(store, FACTS, files)
    assert load_pipeline(store, manifest.id) == manifest
    for _ in range(2):
        folder = fetch_pipeline(store, manifest.id)
        assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == files.keys()
        assert (folder / "vae/model.safetensors").read_bytes() == b"weights"


def test_a_removed_store_takes_its_own_folder_alone(store: Store, tmp_path: Path, files: dict[str, Path]) -> None:
    """As when two runs on one machine use the same pipeline in two stores."""
    pipeline, other = publish_pipeline(store, FACTS, files).id, open_store(str(tmp_path / "other"))
    folder = fetch_pipeline(store, pipeline)
    assert publish_pipeline(other, FACTS, files).id == pipeline
    fetch_pipeline(other, pipeline)
    shutil.rmtree(tmp_path / "other")
    assert (folder / "vae/model.safetensors").read_bytes() == b"weights"


def test_its_id_is_that_of_its_contents(store: Store, files: dict[str, Path]) -> None:
    first = publish_pipeline(store, FACTS, files)
    assert publish_pipeline(store, FACTS, dict(reversed(files.items()))).id == first.id
    assert publish_pipeline(store, FACTS.model_copy(update={"latent_scale": 1.0}), files).id != first.id
    with pytest.raises(ValueError, match="is not that of its contents"):
        PipelineManifest(id=first.id, facts=FACTS, files={})
    with pytest.raises(ValueError, match="leads outside"):
        PipelineManifest.of(FACTS, {"../model.safetensors": first.files["model_index.json"]})


def test_a_checkpoint_keeps_its_pipeline(local_store: Store, files: dict[str, Path]) -> None:
    """For as long as something keeps the checkpoint; then both go, with their files."""
    kept, lost = (
        publish_pipeline(local_store, FACTS.model_copy(update={"latent_scale": scale}), files) for scale in (1.0, 2.0)
    )
    identity = description(architecture={"pipeline": kept.id})
    checkpoint = publish_checkpoint(local_store, files["model_index.json"].resolve(), identity, provenance())
    move_alias(local_store, "teacher", checkpoint.id, "test")
    age(local_store, days=8)
    remove_garbage(local_store, find_garbage(local_store))
    assert fetch_pipeline(local_store, kept.id).is_dir()
    with pytest.raises(UsageError, match="no pipeline"):
        load_pipeline(local_store, lost.id)


def test_it_is_copied_between_stores(store: Store, files: dict[str, Path], tmp_path: Path) -> None:
    manifest = publish_pipeline(store, FACTS, files)
    other = open_store(str(tmp_path / "other"))
    assert copy_pipeline(store, other, manifest.id) == manifest
    assert (fetch_pipeline(other, manifest.id) / "vae/model.safetensors").read_bytes() == b"weights"


def test_a_missing_or_damaged_one_is_named(store: Store, files: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="no pipeline aaaa.*progdistill import"):
        load_pipeline(store, "a" * 64)
    manifest = publish_pipeline(store, FACTS, files)
    store.write(blob_key(manifest.files["model_index.json"].sha256), b"[]")
    with pytest.raises(LostInvariantError, match="is damaged"):
        fetch_pipeline(store, manifest.id)
