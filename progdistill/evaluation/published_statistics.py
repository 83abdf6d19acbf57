"""Reference statistics published by others: an .npz with the mean and covariance of real features."""

import hashlib
import io

import numpy as np
from numpy.typing import NDArray

from progdistill.errors import UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.features.weights import read_named_file
from progdistill.store.base import Store
from progdistill.store.layout import reference_statistics_key

INCEPTION_FEATURES = 2048
_SETTING = "evaluation.reference_statistics"

MeanAndCovariance = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Of real features: [d] and [d, d]."""


def pinned_statistics(store: Store, settings: EvaluationSettings) -> EvaluationSettings:
    """Copy the reference statistics to the store, and return the settings with their digest.

    Raises UsageError for a file that is missing or not valid, or that does not fit Inception if that is the
    evaluator. The dimensions of other evaluators are known, and checked, when they are loaded.
    """
    given, expected = settings.reference_statistics, settings.reference_statistics_sha256
    if given is None:
        return settings
    if expected is not None and store.read(reference_statistics_key(expected)) is not None:
        return settings
    _, data = read_named_file(given, "", f"{_SETTING} = {given}")
    sha256 = hashlib.sha256(data).hexdigest()
    if expected not in (None, sha256):
        raise UsageError(f"{given} has SHA-256 {sha256}, but {_SETTING}_sha256 = {expected}")
    features = len(_parsed(data, given)[0])
    if settings.evaluator == "inception" and features != INCEPTION_FEATURES:
        raise UsageError(f"{given} has {features} features, but Inception has {INCEPTION_FEATURES}")
    store.put_if_absent(reference_statistics_key(sha256), data)
    return settings.model_copy(update={"reference_statistics_sha256": sha256})


def published_statistics(store: Store, settings: EvaluationSettings) -> MeanAndCovariance:
    """Read the statistics that pinned settings name."""
    sha256 = settings.reference_statistics_sha256
    data = None if sha256 is None else store.read(reference_statistics_key(sha256))
    if data is None or hashlib.sha256(data).hexdigest() != sha256:
        raise UsageError(
            f"reference statistics {settings.reference_statistics} are missing from {store.uri}:"
            f" give the file again with --set {_SETTING}=FILE"
        )
    return _parsed(data, str(settings.reference_statistics))


def _parsed(data: bytes, name: str) -> MeanAndCovariance:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            mean, covariance = (np.asarray(arrays[key], np.float64) for key in ("mu", "sigma"))
        if mean.ndim != 1 or covariance.shape != (*mean.shape, *mean.shape):
            raise ValueError(f"mu is {mean.shape} and sigma {covariance.shape}")
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise ValueError("not all numbers are finite")
    except Exception as error:  # NumPy and zipfile raise many types for bytes of another format.
        raise UsageError(f"{name} is not a file of reference statistics (.npz with mu and sigma): {error}") from None
    return mean, covariance
