"""What an evaluator does, and what one kind of evaluator must bring along."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from pydantic import JsonValue
from torch import Tensor

from progdistill.data.dataset import DatasetInfo
from progdistill.evaluation.config import EvaluationSettings
from progdistill.features.manifest import EvaluatorManifest


class Features(NamedTuple):
    """What an evaluator sees in a batch of images."""

    features: Float[Tensor, "batch dimensions"]
    probabilities: Float[Tensor, "batch classes"] | None


Observe = Callable[[UInt8[Tensor, "batch channels height width"]], Features]


class FeatureExtractor(NamedTuple):
    """An evaluator ready for use on a device."""

    manifest: EvaluatorManifest
    observe: Observe


class ObtainedWeights(NamedTuple):
    """Weights as a kind of evaluator obtained them, before they are published."""

    path: Path
    distance_name: str
    test_accuracy: float | None = None


@runtime_checkable
class EvaluatorKind(Protocol):
    """One named way to look at images."""

    def recipe(self, settings: EvaluationSettings, info: DatasetInfo) -> dict[str, JsonValue]:
        """What decides the evaluator, known before its weights: equal recipes share one in a store.

        Raises UsageError where this kind does not fit the dataset.
        """

    def obtain(self, settings: EvaluationSettings, info: DatasetInfo, folder: Path) -> ObtainedWeights:
        """Train or find the weights; `folder` is for files that are not there yet."""

    def load(self, weights: Path, recipe: dict[str, JsonValue], device: str) -> Observe:
        """Make the function that looks at images from a verified weights file."""
