"""Encoding jobs: a dataset's images become latents, and its prompts what a network is conditioned on."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from progdistill.data.columns import CAPTION, IMAGE, LABEL, LATENT_MEAN, LATENT_STD, Column, Rows, captions_of
from progdistill.data.dataset import DatasetInfo
from progdistill.data.encoding import (
    UNCONDITIONAL,
    EncodingStage,
    ShardRange,
    encoded_manifest,
    ranges_of,
    unconditional_columns,
)
from progdistill.data.loader import normalized
from progdistill.data.manifest import read_manifest
from progdistill.data.reading import SplitReader
from progdistill.data.source import ImageFacts
from progdistill.errors import DeviceMemoryError, UsageError
from progdistill.jobs.spec import DatasetOutput, EncodeSpec, JobRequest
from progdistill.models.codec import LatentCodec, PromptEncoder, say_cut
from progdistill.models.conditioning import Conditioning
from progdistill.progress import Progress
from progdistill.registry.pipeline import fetch_pipeline, load_pipeline
from progdistill.store.base import Store
from progdistill.training.config import Precision
from progdistill.training.distributed import Rank


def run_encoding(spec: EncodeSpec, request: JobRequest, store: Store, rank: Rank) -> DatasetOutput | None:
    """Encode this rank's shards, those that are not finished; publish and return the dataset on rank 0."""
    stage = EncodingStage(spec.out, spec.id)
    manifest = read_manifest(stage.out) if rank.rank == 0 else None
    if rank.broadcast("" if manifest is None else "present"):
        # A worker was killed after it published the dataset, before its result.
        if manifest is not None and manifest.prepared_from.identity.get("job") != spec.id:
            raise UsageError(f"{spec.out} holds another dataset, {manifest.name}: remove it or choose another --out")
    else:
        encoder = _Encoder(spec, request.dataset, store, rank.device)
        facts = encoder.facts()
        _encode_shards(spec, request.dataset, encoder, facts, stage, rank)
        rank.barrier()
        if rank.rank == 0:
            manifest = encoded_manifest(stage, spec.name, facts, request.dataset, spec.pipeline, spec.id)
            stage.publish(manifest)
    if manifest is None:
        return None
    say_cut(manifest.prepared_from.cut_prompts, sum(request.dataset.splits.values()))
    return DatasetOutput(fingerprint=manifest.fingerprint, location=stage.out.uri)


def _encode_shards(
    spec: EncodeSpec, dataset: DatasetInfo, encoder: "_Encoder", facts: ImageFacts, stage: EncodingStage, rank: Rank
) -> None:
    """Encode while the next shard is read and the last one is written."""
    columns = facts.stored_columns
    finished = stage.finished()
    own = ranges_of(dataset.splits, columns)[rank.rank :: rank.world_size]
    todo = [place for place in own if place.name not in finished]
    if rank.rank == 0 and UNCONDITIONAL not in finished and encoder.prompts is not None:
        rows = {LABEL: np.zeros(1, np.int64)} | _arrays(encoder.unconditional(), columns)
        stage.write(UNCONDITIONAL, unconditional_columns(facts.columns), rows, 0)
    rows_done = sum(place.stop - place.start for place in own) - sum(place.stop - place.start for place in todo)
    total = sum(place.stop - place.start for place in own)
    writing: Future[None] | None = None
    with (
        Progress(spec.label, total=total, unit="samples", start=rows_done) as progress,
        ThreadPoolExecutor(1, "writing") as pool,
    ):
        for place, found in _read_ahead(dataset, todo):
            encoded, cut = encoder.encode(found)
            kept = {name: found[name] for name in (LABEL, IMAGE, CAPTION) if name in found}
            if writing is not None:
                writing.result()
            writing = pool.submit(stage.write, place.name, columns, kept | _arrays(encoded, columns), cut)
            progress.advance(place.stop - place.start)
        if writing is not None:
            writing.result()


def _read_ahead(dataset: DatasetInfo, places: list[ShardRange]) -> Iterator[tuple[ShardRange, Rows]]:
    """Read the rows of each shard to be, one ahead in a thread."""
    with ThreadPoolExecutor(1, "reading") as pool:
        for split in dict.fromkeys(place.split for place in places):
            with closing(SplitReader(dataset, split, dataset.stored_columns)) as reader:
                own = [place for place in places if place.split == split]
                ahead = pool.submit(reader.read, own[0].start, own[0].stop)
                for place, following in zip(own, [*own[1:], None], strict=True):
                    rows = ahead.result()
                    if following is not None:
                        ahead = pool.submit(reader.read, following.start, following.stop)
                    yield place, rows


class _Encoder:
    """The parts of the pipeline that a dataset needs, on this rank's device.

    Batches begin anew with each shard, so that what a shard holds does not depend on who encodes it.
    """

    def __init__(self, spec: EncodeSpec, dataset: DatasetInfo, store: Store, device: torch.device) -> None:
        folder, known = fetch_pipeline(store, spec.pipeline), load_pipeline(store, spec.pipeline).facts
        self._spec, self._dataset, self._device, self._vae_factor = spec, dataset, device, known.vae_factor
        self._latents = LatentCodec(folder, known, device) if dataset.image_size else None
        self.prompts: PromptEncoder | None = None
        if spec.columns:
            dtype = torch.bfloat16 if spec.precision is Precision.BFLOAT16 else torch.float32
            width = next(column.shape[-1] for column in spec.columns if column.name == "prompt_embeds")
            self.prompts = PromptEncoder(folder, known, device, dtype, width)

    def facts(self) -> ImageFacts:
        """What the encoded dataset holds. UsageError where the encoders do not give what the network takes."""
        dataset, spec = self._dataset, self._spec
        columns = [column for column in dataset.columns if column.name == CAPTION]
        if self._latents is not None:
            blank = torch.zeros(1, dataset.channels, dataset.image_size, dataset.image_size)
            found = self._latents.encode(blank)
            shape = tuple(found.mean.shape[1:])
            if shape != spec.sample_shape:
                raise UsageError(
                    f"images of {dataset.image_size}×{dataset.image_size} become latents of {shape}, but the network"
                    f" takes {spec.sample_shape}: prepare the dataset with --image-size"
                    f" {spec.sample_shape[1] * self._vae_factor}"
                )
            columns.append(Column(name=LATENT_MEAN, shape=shape))
            if found.std is not None:
                columns.append(Column(name=LATENT_STD, shape=shape))
        for column in spec.columns:
            half = spec.half and column.dtype == "float32"
            columns.append(column.model_copy(update={"dtype": "float16"}) if half else column)
        if self.prompts is not None:
            given = {name: tuple(rows.shape[1:]) for name, rows in self.unconditional().items()}
            if given != (wanted := {column.name: column.shape for column in spec.columns}):
                raise UsageError(f"the pipeline's text encoders give {given}, but the network takes {wanted}")
        return ImageFacts(
            channels=dataset.channels if spec.keep_images else 0,
            image_size=dataset.image_size if spec.keep_images else 0,
            class_names=dataset.class_names,
            horizontal_flip_safe=False,
            columns=tuple(columns),
        )

    def encode(self, rows: Rows) -> tuple[Conditioning, int]:
        """Encode the rows of a shard: its new columns, on the CPU, and how many prompts were cut."""
        columns: dict[str, Tensor] = {}
        cut = 0
        if self._latents is not None:
            columns |= self._encoded_images(rows[IMAGE])
        if self.prompts is not None:
            prompts = self._prompts(rows)
            unique = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
            encoded = self._encoded_prompts(list(unique))
            index = torch.tensor([unique[prompt] for prompt in prompts])
            columns |= {name: column[index] for name, column in encoded.items()}
            longer = self.prompts.too_long(list(unique))
            cut = sum(longer[unique[prompt]] for prompt in prompts)
        return columns, cut

    def unconditional(self) -> Conditioning:
        """The columns of the empty or negative prompt, one row."""
        assert self.prompts is not None
        return _on_cpu(self.prompts.unconditional(self._spec.negative_prompt, self._pixels))

    @property
    def _pixels(self) -> int:
        return self._spec.sample_shape[1] * self._vae_factor

    def _prompts(self, rows: Rows) -> list[str]:
        template = self._spec.template
        if template is None:
            return captions_of(rows[CAPTION])
        names = self._dataset.class_names
        return [template.replace("{class}", names[label]) for label in rows[LABEL].tolist()]

    def _encoded_images(self, images: NDArray[np.uint8]) -> dict[str, Tensor]:
        assert self._latents is not None
        means, stds = [], []
        for start in range(0, len(images), self._spec.batch_size):
            batch = torch.from_numpy(images[start : start + self._spec.batch_size]).permute(0, 3, 1, 2)
            with _memory_named(self._spec):
                found = self._latents.encode(normalized(batch.to(self._device)))
            means.append(found.mean.cpu())
            stds.append(None if found.std is None else found.std.cpu())
        columns = {LATENT_MEAN: torch.cat(means)}
        kept = [std for std in stds if std is not None]
        return columns | ({LATENT_STD: torch.cat(kept)} if kept else {})

    def _encoded_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        assert self.prompts is not None
        size, parts = self._spec.batch_size, []
        for start in range(0, len(prompts), size):
            with _memory_named(self._spec):
                parts.append(_on_cpu(self.prompts.encode(prompts[start : start + size], self._pixels)))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@contextmanager
def _memory_named(spec: EncodeSpec) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(
            f"{spec.batch_size} samples at a time do not fit in the device's memory ({error}): choose a smaller"
            " --batch-size"
        ) from None


def _on_cpu(columns: Conditioning) -> Conditioning:
    return {name: column.cpu() for name, column in columns.items()}


def _arrays(columns: Conditioning, stored: tuple[Column, ...]) -> dict[str, NDArray[Any]]:
    """As they are stored."""
    dtypes = {column.name: column.numpy_dtype for column in stored}
    return {name: column.numpy().astype(dtypes[name]) for name, column in columns.items()}
