"""Features of a small classifier trained on the embedded digits."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from pydantic import JsonValue
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from progdistill.data.dataset import DatasetInfo
from progdistill.data.reading import iterate_images
from progdistill.diffusion.noise import generator, seed_for
from progdistill.features.base import Extract, Features, ObtainedWeights
from progdistill.features.config import FeatureSettings
from progdistill.features.weights import check_fit

FEATURES = 64
EPOCHS = 15
BATCH_SIZE = 64
LEARNING_RATE = 3e-3


class DigitsClassifier(nn.Module):
    """Three convolutions and two linear layers; 78 thousand parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1)
        self.hidden = nn.Linear(64 * 4 * 4, FEATURES)
        self.logits = nn.Linear(FEATURES, 10)

    def features(self, images: UInt8[Tensor, "batch 1 8 8"]) -> Float[Tensor, "batch 64"]:
        """Activations before the last layer, float32 and non-negative."""
        x = images.float() / 127.5 - 1
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = F.relu(self.conv3(F.max_pool2d(x, 2)))
        return F.relu(self.hidden(x.flatten(1)))

    def forward(self, images: UInt8[Tensor, "batch 1 8 8"]) -> Float[Tensor, "batch 10"]:
        """Logits of the ten classes."""
        logits: Tensor = self.logits(self.features(images))
        return logits


SEED = 0
"""Seed of the classifier. Fixed: runs with different seeds must be measured in the same features."""


class DigitsEvaluator:
    """Features and class probabilities of a small network trained on the training split."""

    def recipe(self, settings: FeatureSettings, info: DatasetInfo) -> dict[str, JsonValue]:
        check_fit(settings, info)
        return {"name": settings.evaluator, "trained_on": info.fingerprint, "split": "train", "seed": SEED}

    def obtain(self, settings: FeatureSettings, info: DatasetInfo, folder: Path) -> ObtainedWeights:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # Sums split over threads round differently elsewhere.
        try:
            network = _train(*_read(info, "train"))
        finally:
            torch.set_num_threads(threads)
        images, labels = _read(info, "test")
        with torch.inference_mode():
            accuracy = float((network(images).argmax(dim=1) == labels).double().mean())
        path = folder / "digits_classifier.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
        return ObtainedWeights(path, "frechet_digits_classifier", test_accuracy=accuracy)

    def load(self, weights: Path, recipe: dict[str, JsonValue], device: str) -> Extract:
        network = DigitsClassifier()
        network.load_state_dict(load_file(weights))
        network = network.to(device).eval().requires_grad_(False)

        def extract(images: UInt8[Tensor, "batch 1 8 8"]) -> Features:
            features = network.features(images)
            return Features(features, network.logits(features).softmax(dim=1))

        return extract


def _train(images: UInt8[Tensor, "count 1 8 8"], labels: Int64[Tensor, " count"]) -> DigitsClassifier:
    """Train from scratch, a few seconds on one core. On one machine equal arguments give equal weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(SEED, "digits classifier weights"))
        network = DigitsClassifier()
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.01)
    updates_per_epoch = len(images) // BATCH_SIZE
    annealing = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, EPOCHS * updates_per_epoch)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images), generator=generator(SEED, "digits classifier order", epoch))
        for batch in torch.split(order[: updates_per_epoch * BATCH_SIZE], BATCH_SIZE):
            optimizer.zero_grad()
            loss: Tensor = F.cross_entropy(network(images[batch]), labels[batch])
            torch.autograd.backward(loss)
            optimizer.step()
            annealing.step()
    return network.eval().requires_grad_(False)


def _read(info: DatasetInfo, split: str) -> tuple[UInt8[Tensor, "count 1 8 8"], Int64[Tensor, " count"]]:
    images, labels = zip(*iterate_images(info, split, batch_size=1024), strict=True)
    pixels = torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2).contiguous()
    return pixels, torch.from_numpy(np.concatenate(labels))
