"""Inception-v3 as clean-fid uses it, the network behind FID, from an explicit TorchScript file."""

import shutil
from pathlib import Path

import torch
from jaxtyping import UInt8
from pydantic import JsonValue
from torch import Tensor

from progdistill.data.dataset import DatasetInfo
from progdistill.errors import UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.evaluator import Observation, Observe, ObtainedWeights
from progdistill.evaluation.resizing import resize_bicubic
from progdistill.evaluation.torchscript import frozen, load_torchscript
from progdistill.evaluation.weights_source import check_digest, given_file

VARIABLE = "PROGDISTILL_INCEPTION"
INPUT_SIZE = 299
OFFICIAL_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
_ADVICE = (
    "FID needs Inception's weights: fetch inception-2015-12-05.pt (95,607,719 bytes, SHA-256"
    f" {OFFICIAL_SHA256}) from"
    " https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
)


class InceptionEvaluator:
    """2048 features of the last pooling layer, in one of clean-fid's two modes.

    `legacy_tensorflow` resizes inside the network as the original FID did: comparable with the paper. `clean`
    antialiases (Parmar et al. 2022).
    """

    def recipe(self, settings: EvaluationSettings, info: DatasetInfo) -> dict[str, JsonValue]:
        """See EvaluatorKind.recipe."""
        if info.channels not in (1, 3):
            raise UsageError(
                f"the evaluator inception reads grey or RGB images, not {info.channels} channels"
            )
        return {
            "name": "inception",
            "mode": settings.inception_mode,
            "weights_sha256": settings.weights_sha256 or OFFICIAL_SHA256,
        }

    def obtain(self, settings: EvaluationSettings, info: DatasetInfo, folder: Path) -> ObtainedWeights:
        """See EvaluatorKind.obtain."""
        with given_file(settings.weights, VARIABLE, _ADVICE) as path:
            copied = Path(shutil.copyfile(path, folder / "inception.pt"))
        check_digest(copied, settings.weights_sha256 or OFFICIAL_SHA256)
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
