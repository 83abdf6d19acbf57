"""Finished shards of a long measurement, kept in the store until the measurement is whole."""

import sys
import tempfile
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file

from progdistill.artifacts.checkpoint import blob_key
from progdistill.artifacts.digest import FileDigest, Sha256
from progdistill.artifacts.records import publish_record, read_record
from progdistill.artifacts.store import Store
from progdistill.errors import LostInvariantError
from progdistill.evaluation.inception_score import ScoreSums
from progdistill.evaluation.measurement import Question
from progdistill.evaluation.moments import Moments
from progdistill.evaluation.shard import ShardResult
from progdistill.evaluation.statistics import SampleStatistics

FOLDER = "evaluation_shards/"


class ShardRecord(BaseModel):
    """A finished shard; its tensors stand in a safetensors blob."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    question_id: Sha256
    start: int
    stop: int
    vectors: int
    negative_entropy: float | None
    sampling_seconds: float
    evaluation_seconds: float
    tensors_sha256: Sha256
    tensors_bytes: int


def keep_shard(store: Store, question: Question, indices: range, result: ShardResult) -> None:
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
        question_id=question.id,
        start=indices.start,
        stop=indices.stop,
        vectors=statistics.moments.vectors,
        negative_entropy=None if statistics.score is None else statistics.score.negative_entropy,
        sampling_seconds=result.sampling_seconds,
        evaluation_seconds=result.evaluation_seconds,
        tensors_sha256=blob.sha256,
        tensors_bytes=blob.size_bytes,
    )
    publish_record(store, _key(question, indices), record)


def kept_shard(store: Store, question: Question, indices: range) -> ShardResult | None:
    """A shard that was finished before, None where it was not; a damaged one is forgotten and drawn again."""
    key = _key(question, indices)
    try:
        record = read_record(store, key, ShardRecord)
        if record is None:
            return None
        digest = FileDigest(record.tensors_sha256, record.tensors_bytes)
        path = store.download(blob_key(digest.sha256), digest)
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


def forget_shards(store: Store, question: Question) -> None:
    """Remove a question's shards, once it has its answer; their blobs go with the next garbage collection."""
    for item in list(store.list(f"{FOLDER}{question.id}/")):
        store.delete(item.key)


def _key(question: Question, indices: range) -> str:
    return f"{FOLDER}{question.id}/{indices.start}-{indices.stop}.json"
