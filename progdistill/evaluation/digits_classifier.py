"""A small classifier of 8×8 digits, whose penultimate features stand in for Inception's.

Inception has seen photographs of 299×299 pixels; on 8×8 digits its features mean nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from progdistill.diffusion.noise import generator, seed_for

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


def train_digits_classifier(
    images: UInt8[Tensor, "count 1 8 8"], labels: Int64[Tensor, " count"], seed: int
) -> DigitsClassifier:
    """Train from scratch, a few seconds on one core; on one machine equal arguments give equal weights."""
    with _one_thread():
        return _train(_initialized(seed), images, labels, seed).eval().requires_grad_(False)


def _train(
    network: DigitsClassifier,
    images: UInt8[Tensor, "count 1 8 8"],
    labels: Int64[Tensor, " count"],
    seed: int,
) -> DigitsClassifier:
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.01)
    updates_an_epoch = len(images) // BATCH_SIZE
    annealing = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, EPOCHS * updates_an_epoch)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images), generator=generator(seed, "digits classifier order", epoch))
        for update in range(updates_an_epoch):
            batch = order[update * BATCH_SIZE : (update + 1) * BATCH_SIZE]
            optimizer.zero_grad()
            loss: Tensor = F.cross_entropy(network(images[batch]), labels[batch])
            torch.autograd.backward(loss)
            optimizer.step()
            annealing.step()
    return network


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums split over threads round to other weights elsewhere, and so small a network gains nothing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def accuracy(
    network: DigitsClassifier, images: UInt8[Tensor, "count 1 8 8"], labels: Int64[Tensor, " count"]
) -> float:
    """Share of images whose likeliest class is their label."""
    with torch.inference_mode():
        return float((network(images).argmax(dim=1) == labels).double().mean())


def _initialized(seed: int) -> DigitsClassifier:
    """PyTorch's own initialisation from `seed`, leaving the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "digits classifier weights"))
        return DigitsClassifier()
