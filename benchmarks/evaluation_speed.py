"""How fast images become a Fréchet distance, beside clean-fid's own folder pipeline on the same images.

Both run the same Inception-v3 (its architecture with random weights: speed does not depend on them) on the CPU,
one after the other in each repeat, so that a noisy machine disturbs them alike; figures are medians. clean-fid
reads PNG files from a folder, which is its pipeline; ours takes images from memory, as they leave the sampler.

    python benchmarks/evaluation_speed.py --images 128 --repeats 3 --out benchmarks/results
"""

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from cleanfid import fid as clean_fid
from cleanfid.inception_torchscript import InceptionV3W
from PIL import Image
from torch import Tensor, nn

from progdistill.evaluation.frechet import frechet_distance
from progdistill.evaluation.inception_evaluator import InceptionEvaluator
from progdistill.evaluation.moments import Moments, merge, moments_of

BATCH = 32
MODE = "clean"


class InceptionLayers(nn.Module):
    """torchvision's Inception-v3 up to its last pooling."""

    def __init__(self) -> None:
        super().__init__()
        network = torchvision.models.inception_v3(weights=None, init_weights=False)
        left_out = ("AuxLogits", "fc", "dropout")
        self.layers = nn.Sequential(*(m for name, m in network.named_children() if name not in left_out))

    def forward(self, x: Tensor) -> Tensor:
        """2048 features of normalised images of 299 × 299 pixels."""
        features: Tensor = self.layers(x)
        return features.flatten(1)


class InceptionInterface(nn.Module):
    """The interface of inception-2015-12-05.pt around it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = InceptionLayers()

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        """Features of images from 0 to 255."""
        features: Tensor = self.layers((img - 128) / 128)
        return features


def main() -> None:
    """Measure both pipelines, and the parts that differ, and write `evaluation_speed.json` and `.md`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--size", type=int, default=32, help="pixels of each side")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (args.images, args.size, args.size, 3), dtype=np.uint8)
    reference = moments_of(torch.randn(4096, 2048))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.jit.script(InceptionInterface().eval()).save(str(folder / "inception-2015-12-05.pt"))
        for index, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{index:06d}.png")
        report(measure(contenders(folder, images, reference), args.repeats), args)


def contenders(folder: Path, images: np.ndarray, reference: Moments) -> dict[str, Callable[[], object]]:
    """What is timed, by name: features of all images, then the distance from features."""
    network = InceptionV3W(str(folder), download=False).eval()
    observe = InceptionEvaluator().load(folder / "inception-2015-12-05.pt", {"mode": MODE}, "cpu")
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    mean, covariance = reference.mean.numpy(), reference.covariance.numpy()
    features = np.random.default_rng(1).standard_normal((4096, 2048)).astype(np.float32)

    def clean_features() -> np.ndarray:
        return clean_fid.get_folder_features(
            str(folder), network, num_workers=0, batch_size=BATCH, device="cpu", mode=MODE, verbose=False
        )

    def clean_distance() -> float:
        return clean_fid.frechet_distance(
            features.mean(axis=0), np.cov(features, rowvar=False), mean, covariance
        )

    def our_features() -> list[Tensor]:
        with torch.inference_mode():
            return [observe(batch).features for batch in torch.split(pixels, BATCH)]

    def our_statistics() -> Moments:
        moments = None
        for batch in torch.split(torch.from_numpy(features), BATCH):
            found = moments_of(batch)
            moments = found if moments is None else merge(moments, found)
        assert moments is not None
        return moments

    def our_distance() -> float:
        moments = our_statistics()
        return frechet_distance(moments.mean, moments.covariance, reference.mean, reference.covariance)

    return {
        "clean-fid features": clean_features,
        "our features": our_features,
        "clean-fid statistics and distance": clean_distance,
        "our statistics and distance": our_distance,
    }


def measure(timed: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each contender in each repeat; every repeat runs all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(repeats):
        for name, work in timed.items():
            began = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def report(seconds: dict[str, list[float]], args: argparse.Namespace) -> None:
    """Print and write medians and ratios."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    features = medians["clean-fid features"] / medians["our features"]
    distance = medians["clean-fid statistics and distance"] / medians["our statistics and distance"]
    whole = (medians["clean-fid features"] + medians["clean-fid statistics and distance"]) / (
        medians["our features"] + medians["our statistics and distance"]
    )
    facts = {
        "images": args.images,
        "size": args.size,
        "batch": BATCH,
        "mode": MODE,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "seconds": seconds,
        "ratios": {"features": features, "statistics and distance": distance, "whole": whole},
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "evaluation_speed.json").write_text(json.dumps(facts, indent=2) + "\n")
    lines = [
        f"# Evaluation speed: {args.images} images of {args.size}×{args.size}, {facts['threads']} CPU threads",
        "",
        "Medians of one run; ratio is clean-fid's time over ours. The distance is that of 4,096 vectors of 2,048.",
        "",
        "| part | clean-fid (s) | ours (s) | ratio |",
        "|---|---|---|---|",
    ]
    for part, ratio in (("features", features), ("statistics and distance", distance)):
        theirs, ours = medians[f"clean-fid {part}"], medians[f"our {part}"]
        lines.append(f"| {part} | {theirs:.2f} | {ours:.2f} | {ratio:.2f} |")
    lines.append(f"| whole | | | {whole:.2f} |")
    (args.out / "evaluation_speed.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
