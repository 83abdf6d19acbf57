"""Statistics of the real images' features, computed once per store."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Float64
from safetensors.torch import save
from torch import Tensor

from progdistill.data.dataset import DatasetInfo
from progdistill.data.reading import iterate_images
from progdistill.errors import UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.metrics import MomentStream
from progdistill.evaluation.published_statistics import published_statistics
from progdistill.features.base import FeatureExtractor
from progdistill.progress import Progress
from progdistill.store.base import Store
from progdistill.store.digest import FileDigest, Sha256
from progdistill.store.documents import Record, load_valid_record, publish_record, upload_bytes
from progdistill.store.layout import blob_key, evaluator_key, reference_key
from progdistill.store.tensors import load_tensors

BATCH_SIZE = 256

KEPT_FEATURES = 10_000
"""Feature vectors kept for the metrics that need them one by one; evenly spaced over the split."""


class Reference(NamedTuple):
    """Mean and covariance of the real features, and some of the features (None if published by others)."""

    mean: Float64[Tensor, " dimensions"]
    covariance: Float64[Tensor, "dimensions dimensions"]
    features: Float[Tensor, "vectors dimensions"] | None


class ReferenceStatistics(Record):
    """The record of a split's statistics, whose tensors are in a safetensors blob."""

    schema_version: Literal[2] = 2
    evaluator_id: Sha256
    dataset_fingerprint: str
    split: str
    images: int
    file: FileDigest

    def references(self) -> Iterable[str]:
        """See Record.references."""
        return (evaluator_key(self.evaluator_id), blob_key(self.file.sha256))


def reference_of(store: Store, extractor: FeatureExtractor, info: DatasetInfo, split: str, device: str) -> Reference:
    """Load a split's statistics from the store; compute and publish them first if there are none."""
    key = reference_key(extractor.manifest.id, info.fingerprint, split)
    record = load_valid_record(store, key, ReferenceStatistics, lambda known: [known.file])
    if record is None:
        record = publish_record(store, key, _compute(store, extractor, info, split, device))
    path = store.download(blob_key(record.file.sha256), record.file)
    tensors = load_tensors(path, "mean", "covariance", "features")
    return Reference(tensors["mean"], tensors["covariance"], tensors["features"])


def published_reference(
    store: Store, settings: EvaluationSettings, extractor: FeatureExtractor, info: DatasetInfo, device: str
) -> Reference:
    """Load statistics published by others; UsageError unless they have the evaluator's dimensions."""
    mean, covariance = map(torch.from_numpy, published_statistics(store, settings))
    blank = torch.zeros(1, info.channels, info.image_size, info.image_size, dtype=torch.uint8, device=device)
    with torch.inference_mode():
        features = extractor.extract(blank).features.shape[1]
    if len(mean) != features:
        raise UsageError(
            f"{settings.reference_statistics} has {len(mean)} features, but {settings.evaluator} has {features}"
        )
    return Reference(mean, covariance, None)


def _compute(
    store: Store, extractor: FeatureExtractor, info: DatasetInfo, split: str, device: str
) -> ReferenceStatistics:
    total, read = info.splits[split], 0
    if total == 0:
        raise UsageError(f"split {split!r} of {info.name} is empty: there is nothing to compare samples with")
    stream, kept = MomentStream(), []
    with Progress(f"reference statistics of {info.name}", total=total, unit="images") as progress:
        for pixels, _ in iterate_images(info, split, batch_size=BATCH_SIZE):
            images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(device)
            with torch.inference_mode():
                features = extractor.extract(images).features
            stream.add(features)
            kept.append(features[_evenly_spaced(read, len(images), total)].cpu())
            read += len(images)
            progress.advance(len(images))
    moments = stream.moments()
    tensors = {"mean": moments.mean, "covariance": moments.covariance, "features": torch.cat(kept)}
    return ReferenceStatistics(
        evaluator_id=extractor.manifest.id,
        dataset_fingerprint=info.fingerprint,
        split=split,
        images=moments.vectors,
        file=upload_bytes(store, save(tensors)),
    )


def _evenly_spaced(start: int, count: int, total: int) -> list[int]:
    """Positions within a batch of the images that are kept, so that KEPT_FEATURES of `total` are."""
    wanted = min(KEPT_FEATURES, total)
    return [i for i in range(count) if (start + i + 1) * wanted // total > (start + i) * wanted // total]
