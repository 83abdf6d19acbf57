"""One measurement: sample a checkpoint in one way, look at the samples, compare them with the real images."""

import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path

import numpy as np
import torch

from progdistill.artifacts.checkpoint import CheckpointManifest, blob_key, fetch_weights
from progdistill.artifacts.store import Store
from progdistill.evaluation.evaluator import Evaluator
from progdistill.evaluation.measurement import Measurement, Question, SampleStrip
from progdistill.evaluation.pictures import Pixels, encode_strip
from progdistill.evaluation.reference import Reference
from progdistill.evaluation.sampling import labels_of
from progdistill.evaluation.shard import ShardResult, measure_shard, shards_of
from progdistill.evaluation.shard_store import keep_shard, kept_shard
from progdistill.evaluation.statistics import compare, merge_statistics
from progdistill.models.config import DenoiserConfig
from progdistill.models.denoiser import Denoiser, build_denoiser, load_weights
from progdistill.progress import Progress
from progdistill.training.config import Precision
from progdistill.training.devices import device_name
from progdistill.training.placement import set_float32_products


def load_denoiser(store: Store, manifest: CheckpointManifest, device: str = "cpu") -> Denoiser:
    """A checkpoint's denoiser with its verified weights, ready to sample on a device in float32."""
    set_float32_products(Precision.FLOAT32, torch.device(device))
    config = DenoiserConfig.model_validate(manifest.identity.architecture)
    denoiser = build_denoiser(config, seed=0)
    load_weights(denoiser, fetch_weights(store, manifest))
    return denoiser.to(device).eval().requires_grad_(False)


def measure(
    store: Store,
    question: Question,
    denoiser: Denoiser,
    evaluator: Evaluator,
    reference: Reference,
    *,
    batch_size: int,
    device: str,
) -> Measurement:
    """Answer a question anew, going on from shards that an earlier attempt finished or that ranks shared out.

    Progress goes to standard error. The answer is returned, not yet published.
    """
    shards = shards_of(question.samples)
    results = draw_shards(
        store,
        question,
        denoiser,
        evaluator,
        shards,
        keep=len(shards) > 1,
        batch_size=batch_size,
        device=device,
    )
    began = time.monotonic()
    statistics = reduce(merge_statistics, (result.statistics for result in results))
    figures = compare(statistics, reference)
    comparing_seconds = time.monotonic() - began
    shown = np.concatenate([result.shown for result in results])
    return Measurement(
        question=question,
        distance_name=evaluator.manifest.identity.distance_name,
        sampling_seconds=sum(result.sampling_seconds for result in results),
        evaluation_seconds=sum(result.evaluation_seconds for result in results) + comparing_seconds,
        device=device_name(torch.device(device)),
        created_at=datetime.now(UTC),
        shown=_publish_strip(store, shown, question, denoiser.config.network.num_classes),
        **figures._asdict(),
    )


def draw_shards(
    store: Store,
    question: Question,
    denoiser: Denoiser,
    evaluator: Evaluator,
    shards: Sequence[range],
    *,
    keep: bool,
    batch_size: int,
    device: str,
) -> list[ShardResult]:
    """Draw shards unless the store has them already, and return them in order.

    With `keep` each goes to the store as soon as it is finished.
    """
    results = []
    label = f"{question.sampler} × {question.steps}"
    with Progress(label, total=sum(map(len, shards)), unit="images") as progress:
        for indices in shards:
            result = kept_shard(store, question, indices)
            if result is not None:
                progress.advance(len(indices))
            else:
                result = measure_shard(
                    question,
                    indices,
                    denoiser,
                    evaluator,
                    batch_size=batch_size,
                    device=device,
                    progress=progress,
                )
                if keep:
                    keep_shard(store, question, indices, result)
            results.append(result)
    return results


def _publish_strip(store: Store, shown: Pixels, question: Question, num_classes: int) -> SampleStrip | None:
    if len(shown) == 0:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.png"
        path.write_bytes(encode_strip(shown))
        blob = store.upload(path, blob_key)
    labels = labels_of(range(len(shown)), num_classes, class_counts=question.class_counts)
    return SampleStrip(
        sha256=blob.sha256,
        size_bytes=blob.size_bytes,
        images=len(shown),
        labels=None if labels is None else tuple(labels.tolist()),
    )
