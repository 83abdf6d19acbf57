"""What the real images look like to an evaluator, computed once a store."""

import hashlib
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from progdistill.errors import UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.features.weights import given_file
from progdistill.store.base import Store
from progdistill.store.layout import blob_key, evaluator_key, reference_key, reference_statistics_key

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
import tempfile
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Float64
from safetensors.torch import load_file, save_file
from torch import Tensor

from progdistill.data.dataset import DatasetInfo
from progdistill.data.reading import iterate_images
from progdistill.evaluation.cached import load_valid_record
from progdistill.evaluation.metrics import MomentStream
from progdistill.features.base import FeatureExtractor
from progdistill.progress import Progress
from progdistill.store.digest import FileDigest, Sha256
from progdistill.store.documents import Record, publish_record

INCEPTION_FEATURES = 2048

_FIELD = "evaluation.reference_statistics"


class PublishedStatistics(NamedTuple):
    """Mean [d] and covariance [d, d] of real features."""

    mean: "NDArray[np.float64]"
    covariance: "NDArray[np.float64]"


def pinned_statistics(store: Store, settings: EvaluationSettings) -> EvaluationSettings:
    """Settings that say by digest which statistics are meant, once the store has them.

    Raises UsageError for a file that is not there, holds something else, or does not fit Inception where that
    is the evaluator; the others say how many features they have when they are loaded.
    """
    given, expected = settings.reference_statistics, settings.reference_statistics_sha256
    if given is None:
        return settings
    if expected is not None and store.read(reference_statistics_key(expected)) is not None:
        return settings
    with given_file(given, "", f"{_FIELD} = {given}") as path:
        data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    if expected not in (None, sha256):
        raise UsageError(f"{given} has SHA-256 {sha256}, but {_FIELD}_sha256 = {expected}")
    features = len(_parsed(data, given).mean)
    if settings.evaluator == "inception" and features != INCEPTION_FEATURES:
        raise UsageError(f"{given} is about {features} features, Inception has {INCEPTION_FEATURES}")
    store.put_if_absent(reference_statistics_key(sha256), data)
    return settings.model_copy(update={"reference_statistics_sha256": sha256})


def published_statistics(store: Store, settings: EvaluationSettings) -> PublishedStatistics:
    """What pinned settings name."""
    sha256 = settings.reference_statistics_sha256
    data = None if sha256 is None else store.read(reference_statistics_key(sha256))
    if data is None or hashlib.sha256(data).hexdigest() != sha256:
        raise UsageError(
            f"{store.uri} has lost the statistics {settings.reference_statistics}: name them again"
        )
    return _parsed(data, str(settings.reference_statistics))


def _parsed(data: bytes, name: str) -> PublishedStatistics:
    import numpy as np

    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            mean, covariance = (np.asarray(arrays[key], np.float64) for key in ("mu", "sigma"))
        if mean.ndim != 1 or covariance.shape != (*mean.shape, *mean.shape):
            raise ValueError(f"mu is {mean.shape} and sigma {covariance.shape}")
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise ValueError("not all numbers are finite")
    except Exception as error:  # NumPy and zipfile raise what they like at bytes of another kind.
        raise UsageError(
            f"{name} holds no reference statistics (an .npz with mu and sigma): {error}"
        ) from None
    return PublishedStatistics(mean, covariance)


READ_IMAGES = 256
"""Images looked at in one go."""

KEPT_FEATURES = 10_000
"""Feature vectors kept for the distances that need them one by one; evenly spaced over the split."""


class Reference(NamedTuple):
    """Mean and covariance of the real features, and some of the features (None if others gave the rest)."""

    mean: Float64[Tensor, " dimensions"]
    covariance: Float64[Tensor, "dimensions dimensions"]
    features: Float[Tensor, "vectors dimensions"] | None


class ReferenceStatistics(Record):
    """The record of a split's statistics, which stand in a safetensors blob."""

    schema_version: Literal[2] = 2
    evaluator_id: Sha256
    dataset_fingerprint: str
    split: str
    images: int
    file: FileDigest

    def references(self) -> Iterable[str]:
        """See Record.references."""
        return (evaluator_key(self.evaluator_id), blob_key(self.file.sha256))


def reference_of(
    store: Store, evaluator: FeatureExtractor, info: DatasetInfo, split: str, device: str
) -> Reference:
    """A split's statistics, from the store or computed and published now."""
    key = reference_key(evaluator.manifest.id, info.fingerprint, split)
    record = load_valid_record(store, key, ReferenceStatistics, lambda known: [known.file])
    if record is None:
        record = publish_record(store, key, _compute(store, evaluator, info, split, device))
    tensors = load_file(store.download(blob_key(record.file.sha256), record.file))
    return Reference(tensors["mean"], tensors["covariance"], tensors["features"])


def published_reference(
    store: Store, settings: EvaluationSettings, evaluator: FeatureExtractor, info: DatasetInfo, device: str
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
    store: Store, evaluator: FeatureExtractor, info: DatasetInfo, split: str, device: str
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
        file=blob,
    )


def _evenly_spaced(start: int, count: int, total: int) -> list[int]:
    """Positions within a batch of those images that are kept, so that KEPT_FEATURES of `total` are."""
    wanted = min(KEPT_FEATURES, total)
    return [i for i in range(count) if (start + i + 1) * wanted // total > (start + i) * wanted // total]
