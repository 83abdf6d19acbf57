"""What the real images look like to an evaluator, computed once a store."""

import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Float64
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file
from torch import Tensor

from progdistill.artifacts.checkpoint import blob_key
from progdistill.artifacts.digest import FileDigest, Sha256
from progdistill.artifacts.records import publish_record
from progdistill.artifacts.store import Store
from progdistill.data.dataset import DatasetInfo
from progdistill.data.reading import iterate_images
from progdistill.errors import UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.evaluator import Evaluator
from progdistill.evaluation.kept import kept_record
from progdistill.evaluation.moments import MomentStream
from progdistill.evaluation.published_statistics import published_statistics
from progdistill.progress import Progress

READ_IMAGES = 256
"""Images looked at in one go."""

KEPT_FEATURES = 10_000
"""Feature vectors kept for the distances that need them one by one; evenly spaced over the split."""


class Reference(NamedTuple):
    """Mean and covariance of the real features, and some of the features (None if others gave the rest)."""

    mean: Float64[Tensor, " dimensions"]
    covariance: Float64[Tensor, "dimensions dimensions"]
    features: Float[Tensor, "vectors dimensions"] | None


class ReferenceStatistics(BaseModel):
    """The record of a split's statistics, which stand in a safetensors blob."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    evaluator_id: Sha256
    dataset_fingerprint: str
    split: str
    images: int
    statistics_sha256: Sha256
    statistics_bytes: int

    @property
    def file(self) -> FileDigest:
        """The digest and size of the statistics."""
        return FileDigest(self.statistics_sha256, self.statistics_bytes)


def reference_of(store: Store, evaluator: Evaluator, info: DatasetInfo, split: str, device: str) -> Reference:
    """A split's statistics, from the store or computed and published now."""
    key = f"evaluators/{evaluator.manifest.id}/reference/{info.fingerprint}-{split}.json"
    record = kept_record(store, key, ReferenceStatistics, lambda known: [known.file])
    if record is None:
        record = publish_record(store, key, _compute(store, evaluator, info, split, device))
    tensors = load_file(store.download(blob_key(record.statistics_sha256), record.file))
    return Reference(tensors["mean"], tensors["covariance"], tensors["features"])


def published_reference(
    store: Store, settings: EvaluationSettings, evaluator: Evaluator, info: DatasetInfo, device: str
) -> Reference:
    """Statistics that others computed; UsageError unless they are about the evaluator's features."""
    mean, covariance = map(torch.from_numpy, published_statistics(store, settings))
    blank = torch.zeros(1, info.channels, info.image_size, info.image_size, dtype=torch.uint8, device=device)
    with torch.inference_mode():
        features = evaluator.observe(blank).features.shape[1]
    if len(mean) != features:
        raise UsageError(
            f"{settings.reference_statistics} is about {len(mean)} features, but {settings.evaluator} has"
            f" {features}"
        )
    return Reference(mean, covariance, None)


def _compute(
    store: Store, evaluator: Evaluator, info: DatasetInfo, split: str, device: str
) -> ReferenceStatistics:
    total, seen = info.splits[split], 0
    stream, kept = MomentStream(), []
    with Progress(f"reference statistics of {info.name}", total=total, unit="images") as progress:
        for pixels, _ in iterate_images(info, split, batch_size=READ_IMAGES):
            images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(device)
            with torch.inference_mode():
                features = evaluator.observe(images).features
            stream.add(features)
            kept.append(features[_evenly_spaced(seen, len(images), total)].cpu())
            seen += len(images)
            progress.advance(len(images))
    if seen == 0:
        raise UsageError(f"split {split!r} of {info.name} is empty: there is nothing to compare samples with")
    moments = stream.moments()
    tensors = {"mean": moments.mean, "covariance": moments.covariance, "features": torch.cat(kept)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "statistics.safetensors"
        save_file(tensors, path)
        blob = store.upload(path, blob_key)
    return ReferenceStatistics(
        evaluator_id=evaluator.manifest.id,
        dataset_fingerprint=info.fingerprint,
        split=split,
        images=moments.vectors,
        statistics_sha256=blob.sha256,
        statistics_bytes=blob.size_bytes,
    )


def _evenly_spaced(start: int, count: int, total: int) -> list[int]:
    """Places within a batch of those images that are kept, so that KEPT_FEATURES of `total` are."""
    wanted = min(KEPT_FEATURES, total)
    return [i for i in range(count) if (start + i + 1) * wanted // total > (start + i) * wanted // total]
