"""Samples of a measurement in shards, which are kept in the store until they are added up."""

import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from progdistill.errors import LostInvariantError
from progdistill.evaluation.metrics import Moments, ScoreSums
from progdistill.evaluation.reference import KEPT_FEATURES
from progdistill.evaluation.sampling import generate
from progdistill.evaluation.statistics import SampleStatistics, StatisticsStream
from progdistill.features.base import FeatureExtractor
from progdistill.images import Pixels
from progdistill.models.denoiser import Denoiser
from progdistill.progress import Progress
from progdistill.registry.evaluations import MeasurementSpec
from progdistill.store.base import Store
from progdistill.store.digest import FileDigest, Sha256
from progdistill.store.documents import Record, publish_record, read_record
from progdistill.store.failpoints import failpoint
from progdistill.store.layout import blob_key, shard_key, shards_prefix

SHARD_SAMPLES = 5000
"""Samples of a shard. Fixed, so that sums are added in one order whatever the number of ranks."""


class ShardResult(NamedTuple):
    """What a shard's samples gave, its first images, and the seconds it took."""

    statistics: SampleStatistics
    shown: Pixels
    sampling_seconds: float
    evaluation_seconds: float


def shards_of(samples: int) -> list[range]:
    """Cut sample indices into shards."""
    return [range(start, min(start + SHARD_SAMPLES, samples)) for start in range(0, samples, SHARD_SAMPLES)]


def measure_shard(
    spec: MeasurementSpec,
    indices: range,
    denoiser: Denoiser,
    evaluator: FeatureExtractor,
    *,
    batch_size: int,
    device: str,
    progress: Progress,
) -> ShardResult:
    """Draw the samples `indices` and gather their statistics; images below `shown_samples` are kept."""
    stream = StatisticsStream(keep=KEPT_FEATURES - indices.start)
    shown: list[Pixels] = []
    watch = _Watch()
    index = indices.start
    for images in watch.sampling(_samples(spec, indices, denoiser, batch_size, device)):
        began = time.monotonic()
        with torch.inference_mode():
            stream.add(evaluator.observe(images))
        watch.evaluation_seconds += time.monotonic() - began
        shown.append(images[: max(spec.shown_samples - index, 0)].permute(0, 2, 3, 1).cpu().numpy())
        index += len(images)
        progress.advance(len(images))
        failpoint("evaluation.batch")
    began = time.monotonic()
    statistics = stream.statistics()
    watch.evaluation_seconds += time.monotonic() - began
    return ShardResult(statistics, np.concatenate(shown), watch.sampling_seconds, watch.evaluation_seconds)


class _Watch:
    """Tells the time of drawing samples from that of looking at them."""

    def __init__(self) -> None:
        self.sampling_seconds = 0.0
        self.evaluation_seconds = 0.0

    def sampling(self, batches: Iterator[Tensor]) -> Iterator[Tensor]:
        """Pass batches on, counting the seconds it takes to make each."""
        while True:
            began = time.monotonic()
            images = next(batches, None)
            self.sampling_seconds += time.monotonic() - began
            if images is None:
                return
            yield images


def _samples(
    spec: MeasurementSpec, indices: range, denoiser: Denoiser, batch_size: int, device: str
) -> Iterator[Tensor]:
    return generate(
        denoiser,
        spec.sampler,
        spec.sampling_steps,
        indices=indices,
        seed=spec.seed,
        batch_size=batch_size,
        gamma=spec.gamma,
        guidance=spec.guidance_scale,
        clip=spec.clip,
        class_counts=spec.class_counts,
        device=device,
        name=f"checkpoint {spec.checkpoint_id[:12]}",
    )


class ShardRecord(Record):
    """A finished shard; its tensors stand in a safetensors blob."""

    schema_version: Literal[2] = 2
    question_id: Sha256
    start: int
    stop: int
    vectors: int
    negative_entropy: float | None
    sampling_seconds: float
    evaluation_seconds: float
    tensors: FileDigest

    def references(self) -> Iterable[str]:
        """See Record.references."""
        return (blob_key(self.tensors.sha256),)


def save_shard(store: Store, spec: MeasurementSpec, indices: range, result: ShardResult) -> None:
    """Publish a finished shard, for a later attempt or for the rank that adds up."""
    statistics = result.statistics
    tensors = {
        "mean": statistics.moments.mean,
        "scatter": statistics.moments.scatter,
        "features": statistics.features,
        "shown": torch.from_numpy(result.shown.copy()),
    }
    if statistics.score is not None:
        tensors["probabilities"] = statistics.score.probabilities
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.safetensors"
        save_file(tensors, path)
        blob = store.upload(path, blob_key)
    record = ShardRecord(
        question_id=spec.id,
        start=indices.start,
        stop=indices.stop,
        vectors=statistics.moments.vectors,
        negative_entropy=None if statistics.score is None else statistics.score.negative_entropy,
        sampling_seconds=result.sampling_seconds,
        evaluation_seconds=result.evaluation_seconds,
        tensors=blob,
    )
    publish_record(store, shard_key(spec.id, indices), record)


def kept_shard(store: Store, spec: MeasurementSpec, indices: range) -> ShardResult | None:
    """A shard that was finished before, None where it was not; a damaged one is forgotten and drawn again."""
    key = shard_key(spec.id, indices)
    try:
        record = read_record(store, key, ShardRecord)
        if record is None:
            return None
        path = store.download(blob_key(record.tensors.sha256), record.tensors)
    except LostInvariantError as error:
        print(
            f"samples {indices.start} to {indices.stop} are drawn again: {error}", file=sys.stderr, flush=True
        )
        store.delete(key)
        return None
    tensors = load_file(path)
    score = None
    if record.negative_entropy is not None:
        score = ScoreSums(record.vectors, tensors["probabilities"], record.negative_entropy)
    statistics = SampleStatistics(
        Moments(record.vectors, tensors["mean"], tensors["scatter"]), score, tensors["features"]
    )
    shown = tensors["shown"].numpy()
    return ShardResult(statistics, shown, record.sampling_seconds, record.evaluation_seconds)


def delete_shards(store: Store, spec: MeasurementSpec) -> None:
    """Remove a spec's shards, once it has its answer; their blobs go with the next garbage collection."""
    for item in list(store.list(shards_prefix(spec.id))):
        store.delete(item.key)
