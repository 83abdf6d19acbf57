"""Reference statistics published by others: an .npz with the mean and covariance of real features."""

import hashlib
import io

import numpy as np
from numpy.typing import NDArray

from progdistill.errors import UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.features.weights import KNOWN_FEATURES, read_named_file
from progdistill.store.base import Store
from progdistill.store.layout import reference_statistics_key

_SETTING = "evaluation.reference_statistics"

MeanAndCovariance = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Of real features: [d] and [d, d]."""


def pinned_statistics(store: Store, settings: EvaluationSettings, features: int | None = None) -> EvaluationSettings:
    """Copy the reference statistics to the store, and return the settings with their digest.

    Args:
        store: Where to copy them.
        settings: Those that name the file.
        features: How many features the evaluator gives (`check_evaluator`); None: not known yet for a features file.

    Raises:
        UsageError: The file is missing or not valid, or is of another number of features.
    """
    given, expected = settings.reference_statistics, settings.reference_statistics_sha256
    if given is None:
        return settings
    data = None if expected is None else store.read(reference_statistics_key(expected))
    if data is None:
        _, data = read_named_file(given, "", f"{_SETTING} = {given}")
    sha256 = hashlib.sha256(data).hexdigest()
    if expected not in (None, sha256):
        raise UsageError(f"{given} has SHA-256 {sha256}, but {_SETTING}_sha256 = {expected}")
    found, wanted = len(_parsed(data, given)[0]), features or KNOWN_FEATURES.get(settings.evaluator)
    if wanted not in (None, found):
        raise UsageError(
            f"{given} has {found} features, but {settings.evaluator} has {wanted}: give statistics of the same features"
        )
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
