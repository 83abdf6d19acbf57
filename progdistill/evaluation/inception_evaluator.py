"""Inception-v3 as clean-fid uses it, the network behind FID, from an explicit TorchScript file."""

import shutil
from pathlib import Path

import torch
from jaxtyping import UInt8
from pydantic import JsonValue
from torch import Tensor

from progdistill.data.dataset import DatasetInfo
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.evaluator import Observation, Observe, ObtainedWeights
from progdistill.evaluation.requirements import (
    INCEPTION_ADVICE,
    INCEPTION_SHA256,
    INCEPTION_VARIABLE,
    check_fit,
)
from progdistill.evaluation.resizing import resize_bicubic
from progdistill.evaluation.torchscript import frozen, load_torchscript
from progdistill.evaluation.weights_source import check_digest, given_file

INPUT_SIZE = 299


class InceptionEvaluator:
    """2048 features of the last pooling layer, in one of clean-fid's two modes.

    `legacy_tensorflow` resizes inside the network as the original FID did: comparable with the paper. `clean`
    antialiases (Parmar et al. 2022).
    """

    def recipe(self, settings: EvaluationSettings, info: DatasetInfo) -> dict[str, JsonValue]:
        """See EvaluatorKind.recipe."""
        check_fit(settings, info)
        return {
            "name": "inception",
            "mode": settings.inception_mode,
            "weights_sha256": settings.weights_sha256 or INCEPTION_SHA256,
        }

    def obtain(self, settings: EvaluationSettings, info: DatasetInfo, folder: Path) -> ObtainedWeights:
        """See EvaluatorKind.obtain."""
        with given_file(settings.weights, INCEPTION_VARIABLE, INCEPTION_ADVICE) as path:
            copied = Path(shutil.copyfile(path, folder / "inception.pt"))
        check_digest(copied, settings.weights_sha256 or INCEPTION_SHA256)
        return ObtainedWeights(copied, distance_name=f"fid_{settings.inception_mode}")

    def load(self, weights: Path, recipe: dict[str, JsonValue], device: str) -> Observe:
        """See EvaluatorKind.load."""
        network = load_torchscript(weights, device)
        output = network.state_dict().get("output.weight")
        clean = recipe["mode"] == "clean"
        # Freezing folds batch normalisation into the convolutions, and a CPU's convolutions want the channels
        # last: 1.4 times as fast together, equal up to rounding.
        look = frozen(network.layers if clean else network)

        def observe(images: UInt8[Tensor, "batch channels height width"]) -> Observation:
            pixels = images.to(device).float().expand(-1, 3, -1, -1)
            if clean:
                resized = (resize_bicubic(pixels, INPUT_SIZE) - 128) / 128
                found = look(resized.contiguous(memory_format=torch.channels_last))
            else:
                found = look(pixels.contiguous(memory_format=torch.channels_last), return_features=True)
            features = found.reshape(len(images), -1).float()
            # The score's original implementation leaves out the bias of the softmax layer.
            probabilities = None if output is None else (features @ output.float().T).softmax(dim=1)
            return Observation(features, probabilities)

        return observe
