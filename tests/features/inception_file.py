"""A small TorchScript file with the interface of Inception's, and other features."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SmallInception(nn.Module):
    """2048 features from 299×299 RGB pixels, `layers` and `output` as in inception-2015-12-05.pt."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.AvgPool2d(13, 13), nn.Flatten(), nn.Linear(3 * 23 * 23, 2048), nn.ReLU())
        self.output = nn.Linear(2048, 1008)

    def forward(
        self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        x = F.interpolate(img.to(torch.float32), size=[299, 299], mode="bilinear", align_corners=False)
        features: Tensor = self.layers((x - 128) / 128)
        if return_features:
            return features
        logits: Tensor = F.linear(features, self.output.weight, None if no_output_bias else self.output.bias)
        return logits.softmax(1)


def write_small_inception(folder: Path) -> Path:
    """Write the file under the name that clean-fid looks for."""
    with torch.random.fork_rng(devices=[]):
        path = folder / "inception-2015-12-05.pt"
        torch.jit.script(SmallInception().eval()).save(str(path))
    return path
