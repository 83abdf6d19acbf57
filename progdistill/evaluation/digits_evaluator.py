"""The digits classifier as an evaluator: trained where it is needed, once a store."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from pydantic import JsonValue
from safetensors.torch import load_file, save_file
from torch import Tensor

from progdistill.data.dataset import DatasetInfo
from progdistill.data.reading import iterate_images
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.digits_classifier import (
    DigitsClassifier,
    accuracy,
    train_digits_classifier,
)
from progdistill.evaluation.evaluator import Observation, Observe, ObtainedWeights
from progdistill.evaluation.requirements import check_fit

SEED = 0
"""Of the classifier, fixed: two runs with different seeds must still be measured in the same features."""


class DigitsEvaluator:
    """Features and class probabilities of a small network trained on the training split."""

    def recipe(self, settings: EvaluationSettings, info: DatasetInfo) -> dict[str, JsonValue]:
        """See EvaluatorKind.recipe."""
        check_fit(settings, info)
        return {
            "name": settings.evaluator,
            "trained_on": info.fingerprint,
            "split": "train",
            "seed": SEED,
        }

    def obtain(self, settings: EvaluationSettings, info: DatasetInfo, folder: Path) -> ObtainedWeights:
        """See EvaluatorKind.obtain."""
        network = train_digits_classifier(*_read(info, "train"), seed=SEED)
        path = folder / "digits_classifier.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
        return ObtainedWeights(
            path, "frechet_digits_classifier", test_accuracy=accuracy(network, *_read(info, "test"))
        )

    def load(self, weights: Path, recipe: dict[str, JsonValue], device: str) -> Observe:
        """See EvaluatorKind.load."""
        network = DigitsClassifier()
        network.load_state_dict(load_file(weights))
        network = network.to(device).eval().requires_grad_(False)

        def observe(images: UInt8[Tensor, "batch 1 8 8"]) -> Observation:
            features = network.features(images)
            return Observation(features, network.logits(features).softmax(dim=1))

        return observe


def _read(info: DatasetInfo, split: str) -> tuple[UInt8[Tensor, "count 1 8 8"], Int64[Tensor, " count"]]:
    images, labels = zip(*iterate_images(info, split, batch_size=1024), strict=True)
    pixels = torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2).contiguous()
    return pixels, torch.from_numpy(np.concatenate(labels))
