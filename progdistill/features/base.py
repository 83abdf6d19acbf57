"""The interface of feature extractors."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from pydantic import JsonValue
from torch import Tensor

from progdistill.data.dataset import DatasetInfo
from progdistill.features.config import FeatureSettings
from progdistill.features.manifest import EvaluatorManifest


class Features(NamedTuple):
    """Of a batch of images: feature vectors, and class probabilities if the network has a classifier."""

    features: Float[Tensor, "batch dimensions"]
    probabilities: Float[Tensor, "batch classes"] | None


Extract = Callable[[UInt8[Tensor, "batch channels height width"]], Features]
"""From images in 0..255 to their features in float32, on the device the network was loaded to."""


class FeatureExtractor(NamedTuple):
    """An evaluator's network, ready for use on a device."""

    manifest: EvaluatorManifest
    extract: Extract


class ObtainedWeights(NamedTuple):
    """Weights of an evaluator before they are published."""

    path: Path
    distance_name: str
    test_accuracy: float | None = None


@runtime_checkable
class EvaluatorKind(Protocol):
    """One way to extract features. `registry.KINDS` has the implementations by name."""

    def recipe(self, settings: FeatureSettings, info: DatasetInfo) -> dict[str, JsonValue]:
        """What decides the evaluator, known before its weights: equal recipes share one evaluator per store.

        Raises UsageError if this kind does not fit the dataset.
        """

    def obtain(self, settings: FeatureSettings, info: DatasetInfo, folder: Path) -> ObtainedWeights:
        """Train or find the weights; new files go to `folder`."""

    def load(self, weights: Path, recipe: dict[str, JsonValue], device: str) -> Extract:
        """Load the network from a verified weights file onto a device."""
