"""Features from any network in a TorchScript or ONNX file."""

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from jaxtyping import UInt8
from pydantic import JsonValue
from torch import Tensor

from progdistill.data.dataset import DatasetInfo
from progdistill.features.base import Extract, Features, ObtainedWeights
from progdistill.features.config import FeatureSettings
from progdistill.features.inception import load_isolated
from progdistill.features.weights import (
    FEATURES_ADVICE,
    FEATURES_VARIABLE,
    check_digest,
    network_format,
    pinned,
    read_named_file,
)


class FeaturesFileEvaluator:
    """The features of the user's network; distances are named after its file."""

    def recipe(self, settings: FeatureSettings, info: DatasetInfo) -> dict[str, JsonValue]:
        settings = pinned(settings)
        return {"name": "features_file", "format": network_format(settings), "weights_sha256": settings.weights_sha256}

    def obtain(self, settings: FeatureSettings, info: DatasetInfo, folder: Path) -> ObtainedWeights:
        named, data = read_named_file(settings.weights, FEATURES_VARIABLE, FEATURES_ADVICE)
        if settings.weights_sha256 is not None:
            check_digest(named, data, settings.weights_sha256)
        path = folder / "network"
        path.write_bytes(data)
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", Path(named).stem)
        return ObtainedWeights(path, distance_name=f"frechet_{stem}")

    def load(self, weights: Path, recipe: dict[str, JsonValue], device: str) -> Extract:
        return load_isolated(weights, recipe, device)


def load_features(path: str, recipe: Mapping[str, JsonValue], device: str) -> Extract:
    """Load the network into this process: it can run code, so only `isolated_process.py` calls this."""
    network = _load_onnx(path) if recipe["format"] == "onnx" else _load_torchscript(path, device)

    def extract(images: UInt8[Tensor, "batch channels height width"]) -> Features:
        return Features(network(images.to(device).float()).reshape(len(images), -1).float(), None)

    return extract


def _load_torchscript(path: str, device: str) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # deprecated, but the file is what it is
        network: torch.jit.ScriptModule = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    network.eval()
    return network


def _load_onnx(path: str) -> Callable[[Tensor], Tensor]:
    """Run by onnxruntime, on the CPU. From memory: a model in a file may name others that hold its tensors."""
    import onnxruntime

    session = onnxruntime.InferenceSession(Path(path).read_bytes(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.cpu().numpy()})[0])
