"""Features of the Inception network, in which FID is measured."""

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from pydantic import JsonValue
from torch import Tensor

from progdistill.data.dataset import DatasetInfo
from progdistill.evaluation.config import EvaluationSettings
from progdistill.features.base import Features, Observe, ObtainedWeights
from progdistill.features.weights import (
    INCEPTION_ADVICE,
    INCEPTION_SHA256,
    INCEPTION_VARIABLE,
    check_digest,
    check_fit,
    given_file,
)


def load_torchscript(path: Path, device: str) -> torch.jit.ScriptModule:
    """Load a network onto a device, ready to run."""
    with _no_advice():
        network: torch.jit.ScriptModule = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    network.eval()
    return network


def frozen(network: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """The same function with its weights as constants: what they decide is computed beforehand."""
    with _no_advice():
        found: torch.jit.ScriptModule = torch.jit.freeze(network)
    return found


@contextmanager
def _no_advice() -> Iterator[None]:
    """TorchScript is deprecated for new networks; these exist in no other form."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def resize_bicubic(
    images: Float[Tensor, "batch channels height width"], size: int
) -> Float[Tensor, "batch channels size size"]:
    """Resize to `size` × `size` with Pillow's bicubic filter in floating point, clipped to [0, 255].

    That is clean-fid's "clean" way (Parmar et al. 2022), which antialiases and never rounds to bytes.
    """
    height, width = images.shape[2:]
    down, across = _matrix(height, size).to(images), _matrix(width, size).to(images)
    return (down @ images @ across.T).clamp(0, 255)


@cache
def _matrix(size: int, resized: int) -> Float[Tensor, "resized size"]:
    """What Pillow's resizing does to a line of pixels, found by resizing each unit vector."""
    units = Image.fromarray(np.eye(size, dtype=np.float32))
    return torch.from_numpy(np.array(units.resize((resized, size), Image.Resampling.BICUBIC))).T.contiguous()


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
        # Freezing folds batch normalization into the convolutions, and a CPU's convolutions want the channels
        # last: 1.4 times as fast together, equal up to rounding.
        look = frozen(network.layers if clean else network)

        def observe(images: UInt8[Tensor, "batch channels height width"]) -> Features:
            pixels = images.to(device).float().expand(-1, 3, -1, -1)
            if clean:
                resized = (resize_bicubic(pixels, INPUT_SIZE) - 128) / 128
                found = look(resized.contiguous(memory_format=torch.channels_last))
            else:
                found = look(pixels.contiguous(memory_format=torch.channels_last), return_features=True)
            features = found.reshape(len(images), -1).float()
            # The score's original implementation leaves out the bias of the softmax layer.
            probabilities = None if output is None else (features @ output.float().T).softmax(dim=1)
            return Features(features, probabilities)

        return observe
