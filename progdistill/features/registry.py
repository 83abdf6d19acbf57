"""Evaluators by name: obtained once per store, published, found again."""

import logging
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue

from progdistill.data.dataset import DatasetInfo
from progdistill.errors import LostInvariantError
from progdistill.features.base import EvaluatorKind, FeatureExtractor
from progdistill.features.config import FeatureSettings
from progdistill.features.digits import DigitsEvaluator
from progdistill.features.efficientnet import EfficientNetEvaluator
from progdistill.features.from_file import FeaturesFileEvaluator
from progdistill.features.inception import InceptionEvaluator
from progdistill.features.manifest import EvaluatorIdentity, EvaluatorManifest, RecipeRecord, load_evaluator_manifest
from progdistill.models_base import content_id
from progdistill.store.base import Store
from progdistill.store.documents import load_valid_record, publish_record
from progdistill.store.layout import blob_key, evaluator_key, recipe_key
from progdistill.version import NUMERICS_VERSION, __version__

logger = logging.getLogger(__name__)

KINDS: dict[str, EvaluatorKind] = {
    "digits_classifier": DigitsEvaluator(),
    "efficientnet_lite0": EfficientNetEvaluator(),
    "features_file": FeaturesFileEvaluator(),
    "inception": InceptionEvaluator(),
}


def find_or_publish_evaluator(store: Store, settings: FeatureSettings, info: DatasetInfo) -> EvaluatorManifest:
    """Return the store's evaluator for these settings and this dataset; obtain and publish it if missing.

    Raises UsageError if the evaluator does not fit the dataset or its weights cannot be found.
    """
    kind = KINDS[settings.evaluator]
    recipe = {**kind.recipe(settings, info), "numerics_version": NUMERICS_VERSION}
    key = recipe_key(content_id(recipe))
    record = load_valid_record(store, key, RecipeRecord, lambda known: ())
    if record is not None:
        found = load_valid_record(
            store, evaluator_key(record.evaluator_id), EvaluatorManifest, lambda known: [known.identity.weights]
        )
        if found is not None and _is(found, settings.evaluator, recipe):
            return found
        if found is not None:
            logger.warning("%s/%s names an evaluator of another recipe: ignored and replaced", store.uri, key)
        store.delete(key)  # trained again, the evaluator may be a different one
    with tempfile.TemporaryDirectory() as folder:
        obtained = kind.obtain(settings, info, Path(folder))
        weights = store.upload(obtained.path, blob_key)
    identity = EvaluatorIdentity(
        name=settings.evaluator,
        distance_name=obtained.distance_name,
        weights=weights,
        recipe=recipe,
        numerics_version=NUMERICS_VERSION,
    )
    manifest = EvaluatorManifest(
        id=identity.id,
        identity=identity,
        test_accuracy=obtained.test_accuracy,
        created_at=datetime.now(UTC),
        code_version=__version__,
    )
    publish_record(store, evaluator_key(manifest.id), manifest)
    record = publish_record(store, key, RecipeRecord(recipe=recipe, evaluator_id=manifest.id))
    found = load_evaluator_manifest(store, record.evaluator_id)
    if not _is(found, settings.evaluator, recipe):
        raise LostInvariantError(f"{store.uri}/{key} names an evaluator of another recipe: remove it, and try again")
    return found


def _is(manifest: EvaluatorManifest, name: str, recipe: dict[str, JsonValue]) -> bool:
    """Whether an evaluator is what was asked for, not what somebody put in its place.

    The digest of a network that can run code is part of the recipe, and compared when it is opened.
    """
    identity = manifest.identity
    return (identity.name, identity.recipe, identity.numerics_version) == (name, recipe, NUMERICS_VERSION)


def open_evaluator(store: Store, manifest: EvaluatorManifest, device: str = "cpu") -> FeatureExtractor:
    """Load an evaluator's weights, verified against their digest, onto a device."""
    identity = manifest.identity
    weights = store.download(blob_key(identity.weights.sha256), identity.weights)
    return FeatureExtractor(manifest, KINDS[identity.name].load(weights, identity.recipe, device))
