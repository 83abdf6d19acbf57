"""Inception features, in which FID is measured: clean-fid's loader, normalization and resizer."""

import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pydantic import JsonValue
from torch import Tensor

from progdistill.data.dataset import DatasetInfo
from progdistill.features.base import Extract, Features, ObtainedWeights
from progdistill.features.config import FeatureSettings
from progdistill.features.isolated import IsolatedNetwork
from progdistill.features.weights import (
    INCEPTION_ADVICE,
    INCEPTION_SHA256,
    INCEPTION_VARIABLE,
    check_digest,
    check_fit,
    read_named_file,
)

INPUT_SIZE = 299


class InceptionEvaluator:
    """2048 features of the last pooling layer, in one of two modes of clean-fid.

    `legacy_tensorflow` resizes inside the network, as the original FID did: comparable with the paper.
    `clean` antialiases (Parmar et al. 2022).
    """

    def recipe(self, settings: FeatureSettings, info: DatasetInfo) -> dict[str, JsonValue]:
        check_fit(settings, info)
        return {
            "name": "inception",
            "mode": settings.inception_mode,
            "weights_sha256": settings.weights_sha256 or INCEPTION_SHA256,
        }

    def obtain(self, settings: FeatureSettings, info: DatasetInfo, folder: Path) -> ObtainedWeights:
        named, data = read_named_file(settings.weights, INCEPTION_VARIABLE, INCEPTION_ADVICE)
        check_digest(named, data, settings.weights_sha256 or INCEPTION_SHA256)
        path = folder / "inception.pt"
        path.write_bytes(data)
        return ObtainedWeights(path, distance_name=f"fid_{settings.inception_mode}")

    def load(self, weights: Path, recipe: dict[str, JsonValue], device: str) -> Extract:
        return load_isolated(weights, recipe, device)


def load_inception(path: str, recipe: Mapping[str, JsonValue], device: str) -> Extract:
    """Load the network into this process: it runs code of its own, so only `isolated_process.py` calls this."""
    from cleanfid.inception_torchscript import InceptionV3W

    clean = recipe["mode"] == "clean"
    resize = resizer(INPUT_SIZE) if clean else torch.Tensor.float
    quiet = warnings.catch_warnings(action="ignore", category=FutureWarning)  # deprecated; there is no other form
    with quiet:
        network = InceptionV3W(str(Path(path).parent), download=False, resize_inside=not clean).eval().to(device)
    # The original implementation of the Inception Score leaves out the bias of this softmax layer.
    output = network.base.state_dict().get("output.weight")
    # Folds batch normalization into the convolutions: 1.4 times as fast on a CPU with channels last.
    network.layers, network.base = torch.jit.freeze(network.layers), torch.jit.freeze(network.base)

    def extract(images: UInt8[Tensor, "batch channels height width"]) -> Features:
        pixels = resize(images.expand(-1, 3, -1, -1)).to(device)
        features = network(pixels.contiguous(memory_format=torch.channels_last)).float()
        probabilities = None if output is None else (features @ output.float().T).softmax(dim=1)
        return Features(features, probabilities)

    return extract


def load_isolated(weights: Path, recipe: Mapping[str, JsonValue], device: str) -> Extract:
    """Load a network from a file of the recipe's digest, in a process of its own (`isolated.py`)."""
    data = weights.read_bytes()
    check_digest(str(weights), data, str(recipe["weights_sha256"]))
    network = IsolatedNetwork(data, str(weights), recipe, device, threads=torch.get_num_threads())

    def extract(images: UInt8[Tensor, "batch channels height width"]) -> Features:
        found = network(images.cpu().numpy())
        features, probabilities = (
            None if array is None else torch.from_numpy(array).to(device)
            for array in (found["features"], found.get("probabilities"))
        )
        assert features is not None
        return Features(features, probabilities)

    return extract


def resizer(size: int) -> Callable[[UInt8[Tensor, "batch 3 height width"]], Float[Tensor, "batch 3 size size"]]:
    """Batch clean-fid's resizer: Pillow's bicubic filter in floating point, clipped to [0, 255].

    It antialiases and does not round to bytes. Images are resized in threads on the CPU, where the result
    stays, in float32.
    """
    from cleanfid.resize import make_resizer

    resize = make_resizer("PIL", False, "bicubic", (size, size))
    threads = ThreadPoolExecutor(torch.get_num_threads())

    def resize_batch(images: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 size size"]:
        rows = images.permute(0, 2, 3, 1).cpu().numpy()
        return torch.from_numpy(np.stack(list(threads.map(resize, rows)))).permute(0, 3, 1, 2)

    return resize_batch
