"""Time from images to a Fréchet distance: our evaluation against clean-fid's folder pipeline on the same images.

Both run the same Inception-v3 (with random weights, on which speed does not depend) on the CPU, one after the
other in each repeat, so that other load affects both; times are medians. Both use clean-fid's loader and resizer.
clean-fid reads PNG files from a folder and resizes them one by one. Ours takes images from memory, as the
sampler returns them, resizes them in threads, and runs a frozen network with channels last. The last lines
show what the streaming sums add to a measurement: to Inception's features alone, and to sampling (with one
step, the fastest) and features of the digits preset.

    python benchmarks/evaluation_speed.py --out benchmarks/results/evaluation_speed.txt
"""

import argparse
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

from progdistill.config.presets import PRESETS
from progdistill.diffusion.names import SamplerName
from progdistill.evaluation.metrics import Moments, MomentStream, frechet_distance, moments_of
from progdistill.evaluation.sampling import generate
from progdistill.features.digits import FEATURES, DigitsClassifier
from progdistill.features.inception import load_inception
from progdistill.models.denoiser import build_denoiser

BATCH = 32
DIGITS = 2000
MODE = "clean"


class InceptionLayers(nn.Module):
    """torchvision's Inception-v3 up to its last pooling layer."""

    def __init__(self) -> None:
        super().__init__()
        network = torchvision.models.inception_v3(weights=None, init_weights=False)
        omissions = ("AuxLogits", "fc", "dropout")
        self.layers = nn.Sequential(*(m for name, m in network.named_children() if name not in omissions))

    def forward(self, x: Tensor) -> Tensor:
        """2048 features of normalized images of 299 × 299 pixels."""
        features: Tensor = self.layers(x)
        return features.flatten(1)


class InceptionInterface(nn.Module):
    """The network with the interface of inception-2015-12-05.pt."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = InceptionLayers()

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        """Features of images from 0 to 255."""
        features: Tensor = self.layers((img - 128) / 128)
        return features


def main() -> None:
    """Measure both pipelines and the parts that differ, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--size", type=int, default=32, help="height and width in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/evaluation_speed.txt"))
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
        timed = contenders(folder, images, reference) | streaming(images)
        report(measure(timed, args.repeats), args)


def contenders(folder: Path, images: np.ndarray, reference: Moments) -> dict[str, Callable[[], object]]:
    """The timed functions by name: features of all images, then the distance from features."""
    network = InceptionV3W(str(folder), download=False).eval()
    extract = load_inception(str(folder / "inception-2015-12-05.pt"), {"mode": MODE}, "cpu")
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    mean, covariance = reference.mean.numpy(), reference.covariance.numpy()
    features = np.random.default_rng(1).standard_normal((4096, 2048)).astype(np.float32)

    def clean_features() -> np.ndarray:
        return clean_fid.get_folder_features(
            str(folder), network, num_workers=0, batch_size=BATCH, device="cpu", mode=MODE, verbose=False
        )

    def clean_distance() -> float:
        return clean_fid.frechet_distance(features.mean(axis=0), np.cov(features, rowvar=False), mean, covariance)

    def our_features() -> list[Tensor]:
        with torch.inference_mode():
            return [extract(batch).features for batch in torch.split(pixels, BATCH)]

    def our_distance() -> float:
        moments = streamed(torch.from_numpy(features), BATCH)
        return frechet_distance(moments.mean, moments.covariance, reference.mean, reference.covariance)

    return {
        "clean-fid features": clean_features,
        "our features": our_features,
        "clean-fid statistics and distance": clean_distance,
        "our statistics and distance": our_distance,
    }


def streamed(features: Tensor, batch: int) -> Moments:
    """Moments as they are accumulated while images are sampled."""
    stream = MomentStream()
    for part in torch.split(features, batch):
        stream.add(part)
    return stream.moments()


def streaming(images: np.ndarray) -> dict[str, Callable[[], object]]:
    """The timed functions by name: the sums, and the rest of a measurement."""
    preset = PRESETS["digits"]
    batch = preset.evaluation.batch_size
    denoiser = build_denoiser(preset.model, seed=0).eval()
    classifier = DigitsClassifier().eval()
    pixels = torch.randint(0, 256, (DIGITS, 1, 8, 8), dtype=torch.uint8)
    small, wide = torch.randn(DIGITS, FEATURES), torch.randn(len(images), 2048)

    def digits_features() -> list[Tensor]:
        with torch.inference_mode():
            return [classifier.features(part) for part in torch.split(pixels, batch)]

    def sampling() -> list[Tensor]:
        return list(generate(denoiser, SamplerName.DDIM, 1, indices=range(DIGITS), seed=0, batch_size=batch))

    return {
        "digits sampling": sampling,
        "digits features": digits_features,
        "digits sums": lambda: streamed(small, batch),
        "inception sums": lambda: streamed(wide, batch),
    }


def measure(timed: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each function in each repeat; every repeat runs all of them."""
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
    beside = medians["digits sampling"] + medians["digits features"]
    added = {
        "digits": medians["digits sums"] / beside,
        "inception": medians["inception sums"] / medians["our features"],
    }
    lines = [
        f"{args.images} images of {args.size} x {args.size}, mode {MODE}, batches of {BATCH}, on"
        f" {torch.get_num_threads()} of {os.cpu_count()} CPU threads, medians of {args.repeats}",
        "distance: from 4,096 vectors of 2,048 features",
        "",
        f"{'':34}{'clean-fid':>12}{'ours':>12}{'ratio':>9}",
    ]
    for part, ratio in (("features", features), ("statistics and distance", distance)):
        theirs, ours = medians[f"clean-fid {part}"], medians[f"our {part}"]
        lines.append(f"{part:34}{theirs:10.2f} s{ours:10.2f} s{ratio:8.2f}x")
    lines += [
        f"{'both':34}{'':24}{whole:8.2f}x",
        "",
        "streaming mean and covariance, batches of the digits preset:",
        f"{f'  {DIGITS:,} digits, 64 features':34}{medians['digits sums']:10.4f} s, {added['digits']:.1%} of"
        f" one-step sampling and features ({beside:.2f} s)",
        f"{f'  {args.images} images, 2,048 features':34}{medians['inception sums']:10.4f} s,"
        f" {added['inception']:.1%} of Inception's features ({medians['our features']:.2f} s)",
    ]
    text = "\n".join(line.rstrip() for line in lines) + "\n"
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
