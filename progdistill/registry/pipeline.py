"""Pipelines as records: what a latent model needs beside its network (VAE, text encoders, tokenizers, scheduler)."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from progdistill.errors import LostInvariantError, UsageError
from progdistill.models_base import Frozen, content_id
from progdistill.store.base import Store
from progdistill.store.cache import cache_folder
from progdistill.store.digest import FileDigest, Sha256
from progdistill.store.documents import Record, publish_record, read_record
from progdistill.store.layout import blob_key, pipeline_key
from progdistill.store.open import mark_layout

Family = Literal["sd", "sdxl", "sd3", "flux", "sana", "dit"]
"""Families of latent models: which columns the network is conditioned on, and how prompts become them."""


class PipelineFacts(Frozen, allow_inf_nan=False):
    """What is known of a pipeline beside its files."""

    class_name: str = Field(description="of diffusers, such as StableDiffusionPipeline")
    family: Family
    latent_scale: float = Field(gt=0, description="a network sees (latent − latent_shift)·latent_scale")
    latent_shift: float = 0.0
    vae_factor: PositiveInt = Field(description="pixels of an image in the height of one latent")
    max_prompt_tokens: int = Field(ge=0, description="longer prompts are truncated; 0: no prompts")


class PipelineManifest(Record):
    """The record that makes a pipeline exist: everything of it but the network that denoises."""

    schema_version: Literal[1] = 1
    id: Sha256
    facts: PipelineFacts
    files: dict[str, FileDigest] = Field(description="by path inside the folder, model_index.json among them")

    @classmethod
    def of(cls, facts: PipelineFacts, files: Mapping[str, FileDigest]) -> Self:
        """The manifest of these contents; its id is made of them."""
        return cls(id=_id_of(facts, files), facts=facts, files=dict(files))

    @model_validator(mode="after")
    def _is_what_its_id_says(self) -> Self:
        if self.id != _id_of(self.facts, self.files):
            raise ValueError(f"id {self.id} is not that of its contents")
        for name in self.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{name!r} leads outside the folder")
        return self

    def references(self) -> Iterable[str]:
        """See Record.references."""
        return (blob_key(file.sha256) for file in self.files.values())


def _id_of(facts: PipelineFacts, files: Mapping[str, FileDigest]) -> str:
    digests = {name: {"sha256": file.sha256, "size_bytes": file.size_bytes} for name, file in files.items()}
    return content_id({"facts": facts.model_dump(mode="json"), "files": digests})


def publish_pipeline(store: Store, facts: PipelineFacts, files: Mapping[str, Path]) -> PipelineManifest:
    """Publish files by their path inside the folder, then the manifest that makes them a pipeline."""
    mark_layout(store)
    digests = {name: store.upload(path.resolve(), blob_key) for name, path in sorted(files.items())}
    manifest = PipelineManifest.of(facts, digests)
    return publish_record(store, pipeline_key(manifest.id), manifest)


def load_pipeline(store: Store, pipeline_id: str) -> PipelineManifest:
    """Read a pipeline's manifest by its full id.

    Raises:
        UsageError: The store has no such pipeline.
        LostInvariantError: The manifest is damaged.
    """
    manifest = read_record(store, pipeline_key(pipeline_id), PipelineManifest)
    if manifest is None:
        raise UsageError(
            f"no pipeline {pipeline_id} in store {store.uri}: import the model that it belongs to with"
            " `progdistill import FOLDER --name NAME`"
        )
    if manifest.id != pipeline_id:
        raise LostInvariantError(f"{store.uri}/{pipeline_key(pipeline_id)} holds another pipeline, {manifest.id}")
    return manifest


def fetch_pipeline(store: Store, pipeline_id: str) -> Path:
    """Return a local folder with the pipeline's verified files, from which diffusers loads its components.

    The files are links into the store's folder or the local cache: load what you need, and ask again later.
    """
    # By store, too: links into another one, which may be removed, must not replace those that a process loads from.
    folder = cache_folder() / "pipelines" / content_id({"store": store.uri})[:16] / pipeline_id
    for name, expected in load_pipeline(store, pipeline_id).files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.unlink(missing_ok=True)
        draft.symlink_to(store.download(blob_key(expected.sha256), expected).absolute())
        draft.replace(path)
    return folder


def copy_pipeline(source: Store, destination: Store, pipeline_id: str) -> PipelineManifest:
    """Publish a pipeline of one store in another."""
    manifest = load_pipeline(source, pipeline_id)
    files = {name: source.download(blob_key(file.sha256), file) for name, file in manifest.files.items()}
    return publish_pipeline(destination, manifest.facts, files)
