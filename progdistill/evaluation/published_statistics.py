"""Statistics of real images that others computed: an .npz with `mu` and `sigma`, the format of clean-fid, of
NVIDIA's networks and of the original FID. Kept in the store by digest: a job may run where the file is not.
No torch.
"""

import hashlib
import io
from typing import TYPE_CHECKING, NamedTuple

from progdistill.artifacts.store import Store
from progdistill.errors import UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.weights_source import given_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
    if expected is not None and store.read(_key(expected)) is not None:
        return settings
    with given_file(given, "", f"{_FIELD} = {given}") as path:
        data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    if expected not in (None, sha256):
        raise UsageError(f"{given} has SHA-256 {sha256}, but {_FIELD}_sha256 = {expected}")
    features = len(_parsed(data, given).mean)
    if settings.evaluator == "inception" and features != INCEPTION_FEATURES:
        raise UsageError(f"{given} is about {features} features, Inception has {INCEPTION_FEATURES}")
    store.put_if_absent(_key(sha256), data)
    return settings.model_copy(update={"reference_statistics_sha256": sha256})


def published_statistics(store: Store, settings: EvaluationSettings) -> PublishedStatistics:
    """What pinned settings name."""
    sha256 = settings.reference_statistics_sha256
    data = None if sha256 is None else store.read(_key(sha256))
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


def _key(sha256: str) -> str:
    return f"reference_statistics/{sha256}.npz"
