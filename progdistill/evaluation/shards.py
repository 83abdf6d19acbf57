"""Shards of a measurement's samples, kept in the store until all are added up."""

import logging
import time
from collections.abc import Iterable
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from safetensors.torch import save

from progdistill.errors import LostInvariantError
from progdistill.evaluation.config import SPLITS
from progdistill.evaluation.latents import Surroundings
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
from progdistill.store.digest import FileDigest
from progdistill.store.documents import Record, publish_record, read_record, upload_bytes
from progdistill.store.failpoints import failpoint
from progdistill.store.layout import blob_key, shard_key, shards_prefix
from progdistill.store.tensors import load_tensors

logger = logging.getLogger(__name__)

SHARD_SAMPLES = 5000
"""Samples per shard. Fixed, so that sums are added in one order whatever the number of ranks."""


class ShardResult(NamedTuple):
    """The statistics of a shard's samples, its first images, and the seconds it took."""

    statistics: SampleStatistics
    shown: Pixels
    sampling_seconds: float
    evaluation_seconds: float


class ShardRecord(Record):
    """A finished shard; its tensors are in a safetensors blob."""

    schema_version: Literal[2] = 2
    vectors: int
    negative_entropy: float | None
    sampling_seconds: float
    evaluation_seconds: float
    tensors: FileDigest

    def references(self) -> Iterable[str]:
        """See Record.references."""
        return (blob_key(self.tensors.sha256),)


def shards_of(spec: MeasurementSpec) -> list[range]:
    """Cut a measurement's sample indices into shards, each within one split."""
    return [
        range(start, min(start + SHARD_SAMPLES, split.stop))
        for split in splits_of(spec)
        for start in range(split.start, split.stop, SHARD_SAMPLES)
    ]


def splits_of(spec: MeasurementSpec) -> list[range]:
    """The sample indices that a class score is made of: ten splits by the published protocol, otherwise one."""
    splits = SPLITS if spec.protocol == "published" else 1
    edges = [place * spec.samples // splits for place in range(splits + 1)]
    return [range(start, stop) for start, stop in pairwise(edges)]


def measure_shard(
    spec: MeasurementSpec,
    indices: range,
    denoiser: Denoiser,
    extractor: FeatureExtractor,
    batch_size: int,
    device: str,
    progress: Progress,
    surroundings: Surroundings | None = None,
) -> ShardResult:
    """Draw the samples `indices` and gather their statistics; keep the images below `spec.shown_samples`."""
    kept = spec.samples if spec.protocol == "published" else KEPT_FEATURES
    stream = StatisticsStream(keep=kept - indices.start)
    batches = generate(
        denoiser,
        spec.sampler,
        spec.sampling_steps,
        indices=indices,
        seed=spec.seed,
        batch_size=batch_size,
        gamma=spec.gamma,
        guidance_scale=spec.guidance_scale,
        clip=spec.clip,
        class_counts=spec.class_counts,
        surroundings=surroundings,
        device=device,
        name=f"checkpoint {spec.checkpoint_id[:12]}",
    )
    shown: list[Pixels] = []
    index, began, evaluation_seconds = indices.start, time.monotonic(), 0.0
    for images in batches:
        drawn = time.monotonic()
        with torch.inference_mode():
            stream.add(extractor.extract(images))
        shown.append(images[: max(spec.shown_samples - index, 0)].permute(0, 2, 3, 1).cpu().numpy())
        evaluation_seconds += time.monotonic() - drawn
        index += len(images)
        progress.advance(len(images))
        failpoint("evaluation.batch")
    drawn = time.monotonic()
    statistics = stream.statistics()
    ended = time.monotonic()
    evaluation_seconds += ended - drawn
    return ShardResult(statistics, np.concatenate(shown), ended - began - evaluation_seconds, evaluation_seconds)


def save_shard(store: Store, spec: MeasurementSpec, indices: range, result: ShardResult) -> None:
    """Publish a finished shard for a later attempt, or for the rank that merges the shards."""
    statistics = result.statistics
    tensors = {
        "mean": statistics.moments.mean,
        "scatter": statistics.moments.scatter,
        "features": statistics.features,
        "shown": torch.from_numpy(result.shown.copy()),
    }
    if statistics.score is not None:
        tensors["probabilities"] = statistics.score.probabilities
    record = ShardRecord(
        vectors=statistics.moments.vectors,
        negative_entropy=None if statistics.score is None else statistics.score.negative_entropy,
        sampling_seconds=result.sampling_seconds,
        evaluation_seconds=result.evaluation_seconds,
        tensors=upload_bytes(store, save(tensors)),
    )
    publish_record(store, shard_key(spec.id, indices), record)


def load_shard(store: Store, spec: MeasurementSpec, indices: range) -> ShardResult | None:
    """Load a finished shard; None if there is none. A damaged one is deleted, to be drawn again."""
    key = shard_key(spec.id, indices)
    try:
        record = read_record(store, key, ShardRecord)
        if record is None:
            return None
        path = store.download(blob_key(record.tensors.sha256), record.tensors)
        scored = [] if record.negative_entropy is None else ["probabilities"]
        tensors = load_tensors(path, "mean", "scatter", "features", "shown", *scored)
    except LostInvariantError as error:
        logger.warning("drawing samples %d to %d again: %s", indices.start, indices.stop, error)
        store.delete(key)
        return None
    score = None
    if record.negative_entropy is not None:
        score = ScoreSums(record.vectors, tensors["probabilities"], record.negative_entropy)
    moments = Moments(record.vectors, tensors["mean"], tensors["scatter"])
    statistics = SampleStatistics(moments, score, tensors["features"])
    return ShardResult(statistics, tensors["shown"].numpy(), record.sampling_seconds, record.evaluation_seconds)


def delete_shards(store: Store, spec: MeasurementSpec) -> None:
    """Delete the shards of a finished measurement; garbage collection removes their blobs."""
    for item in list(store.list(shards_prefix(spec.id))):
        store.delete(item.key)
