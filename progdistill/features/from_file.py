"""Features from any network in a TorchScript or ONNX file."""

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import UInt8
from pydantic import JsonValue
from torch import Tensor

from progdistill.data.dataset import DatasetInfo
from progdistill.features.base import Extract, Features, ObtainedWeights
from progdistill.features.config import FeatureSettings
from progdistill.features.inception import load_torchscript
from progdistill.features.weights import FEATURES_ADVICE, FEATURES_VARIABLE, check_digest, pinned, read_named_file


class FeaturesFileEvaluator:
    """The features of the user's network; distances are named after its file."""

    def recipe(self, settings: FeatureSettings, info: DatasetInfo) -> dict[str, JsonValue]:
        settings = pinned(settings)
        return {
            "name": "features_file",
            "format": "onnx" if str(settings.weights).endswith(".onnx") else "torchscript",
            "weights_sha256": settings.weights_sha256,
        }

    def obtain(self, settings: FeatureSettings, info: DatasetInfo, folder: Path) -> ObtainedWeights:
        named, data = read_named_file(settings.weights, FEATURES_VARIABLE, FEATURES_ADVICE)
        if settings.weights_sha256 is not None:
            check_digest(named, data, settings.weights_sha256)
        path = folder / Path(named).name
        path.write_bytes(data)
        return ObtainedWeights(path, distance_name=f"frechet_{path.stem}")

    def load(self, weights: Path, recipe: dict[str, JsonValue], device: str) -> Extract:
        network = _load_onnx(weights) if recipe["format"] == "onnx" else load_torchscript(weights, device)

        def extract(images: UInt8[Tensor, "batch channels height width"]) -> Features:
            return Features(network(images.to(device).float()).reshape(len(images), -1).float(), None)

        return extract


def _load_onnx(weights: Path) -> Callable[[Tensor], Tensor]:
    """Run by onnxruntime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(weights), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.cpu().numpy()})[0])
