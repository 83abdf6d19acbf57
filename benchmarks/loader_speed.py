"""The training loader: images per second against torch's DataLoader, memory and start-up time on large datasets.

    python benchmarks/loader_speed.py --folder /tmp --out benchmarks/results

Speed: each round times our loader on shards on disk, and then `torch.utils.data.DataLoader` with two workers
on PNGs of similar images, with the same output (float32 in [-1, 1], half of the images mirrored); the ratio is
the median over rounds. "Per core": images per second of CPU time of the whole process, which other load
affects least. Memory and start-up: a dataset of 64×64 images, and one of a tenth of its size, are synthesized
on disk (15.7 GB at a time), opened by new processes, and removed. "Cold": the shards were dropped from the
page cache just before.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from progdistill.data.dataset import DatasetInfo, find_dataset
from progdistill.data.loader import TrainingLoader
from progdistill.data.manifest import DatasetManifest, PreparedFrom, fingerprint_of, write_manifest
from progdistill.data.shards import create_shard, rows_per_shard, write_rows
from progdistill.data.source import ImageFacts
from progdistill.data.split_writer import describe_split
from progdistill.progress import Progress
from progdistill.store.local import LocalStore

CLASSES = 1000
BATCH = 128
UPDATES = {32: 400, 64: 120}
"""Timed updates per round."""
STORED_IMAGES = {32: 100_000, 64: 40_000}
"""More than the 256 MiB that a loader would keep in memory."""
PNG_IMAGES = 5_120
MEMORY_UPDATES = 300


class PngFolder(Dataset[tuple[Tensor, int]]):
    """The dataset that one would write without this package."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.glob("*.png"))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self._paths[index]) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        pixels = pixels.flip(2) if torch.rand(()) < 0.5 else pixels
        return pixels.float().div_(127.5).sub_(1), index % CLASSES


class Round(NamedTuple):
    """Images per second in one round."""

    ours: float
    per_core: float
    theirs: float


def photographs(count: int, size: int, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Smooth random images with some noise: as PNGs they are about as large as photographs."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 5, 5, 3)).astype(np.float32)
    at = np.linspace(0, 3.999, size)
    low, part = at.astype(int), (at % 1)[:, None]
    rows = coarse[:, low] * (1 - part[:, None]) + coarse[:, low + 1] * part[:, None]
    both = rows[:, :, low] * (1 - part) + rows[:, :, low + 1] * part
    noisy = both + random.normal(0, 6, both.shape).astype(np.float32)
    return noisy.clip(0, 255).astype(np.uint8)


def synthesize(folder: Path, count: int, size: int) -> DatasetInfo:
    """Write a prepared dataset, shard by shard; pixels repeat from shard to shard with an offset."""
    names = tuple(str(label) for label in range(CLASSES))
    facts = ImageFacts(channels=3, image_size=size, class_names=names, horizontal_flip_safe=True)
    full = rows_per_shard(facts.stored_columns)
    folder.mkdir(parents=True)
    pixels = photographs(min(full, count), size, seed=0)
    starts = range(0, count, full)
    with Progress(f"synthesizing {count:,} images", total=len(starts), unit="shards") as progress:
        for shard, start in enumerate(starts):
            rows = min(full, count - start)
            path = folder / f"train-{shard:05d}.arrow"
            layout = create_shard(path, rows, facts.stored_columns)
            labels = np.arange(start, start + rows) % CLASSES
            write_rows(path, layout, 0, {"image": pixels[:rows] + np.uint8(shard % 256), "label": labels})
            progress.advance()
    entries, figures = describe_split(folder, "train", count, facts.stored_columns, CLASSES)
    origin = PreparedFrom(importer="benchmark", source="synthetic", description="synthetic", identity={})
    manifest = DatasetManifest(
        **facts.model_dump(),
        name=folder.name,
        fingerprint=fingerprint_of(facts, {"train": entries}),
        splits={"train": entries},
        statistics={"train": figures},
        prepared_from=origin,
    )
    write_manifest(LocalStore(folder), manifest)
    return find_dataset(str(folder), folder)


def write_pngs(folder: Path, size: int) -> int:
    """Write PNG files; return their mean size in bytes."""
    folder.mkdir()
    total = 0
    for number, image in enumerate(photographs(PNG_IMAGES, size, seed=1)):
        file = io.BytesIO()
        Image.fromarray(image).save(file, format="PNG")
        (folder / f"{number:05d}.png").write_bytes(file.getvalue())
        total += file.tell()
    return total // PNG_IMAGES


def speed(folder: Path, size: int, rounds: int) -> str:
    """A line of the table: medians over rounds."""
    info = synthesize(folder / f"stored{size}", STORED_IMAGES[size], size)
    png_bytes = write_pngs(folder / f"png{size}", size)
    ours = TrainingLoader(info, batch_size=BATCH, seed=0, flip=True)
    theirs = DataLoader(PngFolder(folder / f"png{size}"), BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    updates = endless(ours)
    for _ in range(20):
        next(updates)
    found = []
    images = UPDATES[size] * BATCH
    for _ in range(rounds):
        processor = time.process_time()
        mine = timed(lambda: [next(updates) for _ in range(UPDATES[size])])
        processor = time.process_time() - processor
        found.append(Round(images / mine, images / processor, rate_of(theirs)))
    ours.close()
    shutil.rmtree(folder / f"stored{size}")
    shutil.rmtree(folder / f"png{size}")
    median = Round(*(statistics.median(column) for column in zip(*found, strict=True)))
    ratio = statistics.median(one.ours / one.theirs for one in found)
    lowest = min(one.ours for one in found)
    return (
        f"{size:>3}×{size:<3}{median.ours:>14,.0f}{lowest:>14,.0f}{median.per_core:>14,.0f}"
        f"{median.theirs:>14,.0f}{ratio:>9.1f}{png_bytes:>14,}"
    )


def rate_of(theirs: DataLoader[Any]) -> float:
    """Images per second over an epoch without its first batch, in which the workers start."""
    batches = iter(theirs)
    next(batches)
    return (PNG_IMAGES // BATCH - 1) * BATCH / timed(lambda: list(batches))


def endless(loader: TrainingLoader) -> Iterator[Any]:
    """Batches of update 0, 1, …"""
    update = 0
    while True:
        yield loader.batch(update)
        update += 1


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def open_in_this_process(folder: Path) -> dict[str, float]:
    """Start-up time and memory of a process that opens the dataset and reads some batches."""
    start = time.perf_counter()
    loader = TrainingLoader(find_dataset(str(folder), folder), batch_size=BATCH, seed=0, flip=True)
    opened = time.perf_counter() - start
    loader.batch(0)
    first = time.perf_counter() - start
    early = peak_mib()
    for update in range(1, MEMORY_UPDATES):
        loader.batch(update)
    loader.close()
    return {"opened": opened, "first": first, "early_mib": early, "late_mib": peak_mib()}


def peak_mib() -> float:
    """Peak resident memory of this program; getrusage would include its parent's memory at the fork."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM in /proc/self/status: this benchmark needs Linux")


def open_in_fresh_process(folder: Path, cold: bool) -> dict[str, float]:
    """The same in a new process."""
    if cold:
        for path in folder.glob("*.arrow"):
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = [sys.executable, __file__, "--open", str(folder)]
    found: dict[str, float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return found


def large(folder: Path, count: int, rounds: int) -> list[str]:
    """Start-up time and memory with a tenth of `count` images, and with `count`."""
    lines = []
    for images in (count // 10, count):
        place = folder / f"large{images}"
        synthesize(place, images, 64)
        os.sync()
        for cold in (True, False):
            found = [open_in_fresh_process(place, cold) for _ in range(rounds)]
            median = {key: statistics.median(one[key] for one in found) for key in found[0]}
            slowest = max(one["first"] for one in found)
            lines.append(
                f"{images:>9,}  {'cold' if cold else 'warm'}{median['opened']:>14.3f}{median['first']:>14.2f}"
                f"{slowest:>10.2f}{median['early_mib']:>14,.0f}{median['late_mib']:>16,.0f}"
            )
        shutil.rmtree(place)
    return lines


def main() -> None:
    """Print both tables, and write them to `loader_speed.txt`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="a folder on the disk to measure, with 20 GB free")
    parser.add_argument("--out", type=Path, help="where to write loader_speed.txt")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.open:
        print(json.dumps(open_in_this_process(args.open)))
        return
    lines = []
    for line in measured(args):
        print(line, flush=True)
        lines.append(line)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "loader_speed.txt").write_text("\n".join(lines) + "\n")


def measured(args: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of both tables as they are measured."""
    cores = len(os.sched_getaffinity(0))
    yield f"torch {torch.__version__}, batch {BATCH}, {cores} cores, medians of {args.rounds} rounds"
    yield f"load average before: {os.getloadavg()[0]:.1f}"
    yield ""
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        yield "images/s, one process   ours  ours, lowest      per core    DataLoader    ratio bytes per PNG"
        for size in (32, 64):
            yield speed(Path(name), size, args.rounds)
        yield ""
        yield "   images  cache     opened, s  1st batch, s   slowest  MiB at 1st  MiB after 300"
        yield from large(Path(name), args.images, args.rounds)
    yield f"load average after: {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
