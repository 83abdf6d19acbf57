"""Speed of datasets of latents: encoding against the encoder alone, and loading against a DataLoader.

    python benchmarks/latents_speed.py [--out benchmarks/results]

1. Encoding (`progdistill data encode`): images a second of the whole, reading, writing and checksums included, over
   those of the same VAE alone on the same batches in memory.
2. Loading (`TrainingLoader` from disk): samples of Stable Diffusion's shapes, 4×64×64 means and deviations with
   77×768 embeddings, over those of torch's DataLoader with two workers on one safetensors file a sample, which draws
   the same latents. Batches are dropped, and freed memory is kept, as in training. Each ratio is the median of rounds
   that alternate.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from progdistill.data import loader as loader_module
from progdistill.data.columns import Column
from progdistill.data.dataset import DatasetInfo, find_dataset, info_of
from progdistill.data.encoding import EncodingStage, encoded_manifest, ranges_of, unconditional_columns
from progdistill.data.importers.arrays import ArraysSource
from progdistill.data.loader import TrainingLoader, normalized
from progdistill.data.prepare import prepare
from progdistill.data.source import ImageFacts
from progdistill.jobs.encode import run_encoding
from progdistill.jobs.spec import EncodeSpec, JobRequest
from progdistill.models.codec import LatentCodec
from progdistill.registry.pipeline import PipelineFacts, PipelineManifest, publish_pipeline
from progdistill.store.base import Store
from progdistill.store.local import LocalStore
from progdistill.training.config import ComputeSettings, SnapshotSettings
from progdistill.training.devices import keep_freed_memory
from progdistill.training.distributed import Rank

BATCH = 16
COLUMNS = (
    Column(name="latent_mean", shape=(4, 64, 64)),
    Column(name="latent_std", shape=(4, 64, 64)),
    Column(name="prompt_embeds", shape=(77, 768)),
)


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def vae_pipeline(store: Store, folder: Path, size: int) -> PipelineManifest:
    """A VAE with Stable Diffusion's layout of blocks, narrower, as a DiT pipeline without its network."""
    import diffusers

    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 128, 128),
        layers_per_block=2,
        sample_size=size,
    )
    vae.save_pretrained(folder / "vae")
    (folder / "model_index.json").write_text('{"_class_name": "DiTPipeline"}')
    facts = PipelineFacts(
        class_name="DiTPipeline", family="dit", latent_scale=0.18215, vae_factor=8, max_prompt_tokens=0
    )
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return publish_pipeline(store, facts, files)


def encoding_ratio(folder: Path, images: int, size: int, rounds: int) -> list[tuple[float, float]]:
    """(images/s of the whole job, images/s of the VAE alone) in each round."""
    store = LocalStore(folder / "store")
    pipeline = vae_pipeline(store, folder / "pipeline", size)
    pixels = np.random.default_rng(0).integers(0, 256, (images, size, size, 3), np.uint8)
    np.savez(folder / "images.npz", images=pixels)
    source = ArraysSource(folder / "images.npz", horizontal_flip_safe=False)
    place = str(folder / "images")
    dataset = info_of(prepare(source, "images", place, staging_root=folder), place)
    codec, rank = LatentCodec(folder / "pipeline", pipeline.facts), Rank("cpu", None)
    batches = normalized(torch.from_numpy(pixels).permute(0, 3, 1, 2)).split(BATCH)  # type: ignore[no-untyped-call]
    codec.encode(batches[0])
    found = []
    for number in range(rounds):
        spec = EncodeSpec(
            dataset_fingerprint=dataset.fingerprint,
            seed=0,
            name="encoded",
            out=str(folder / f"encoded{number}"),
            pipeline=pipeline.id,
            sample_shape=(4, size // 8, size // 8),
            columns=(),
            template=None,
            batch_size=BATCH,
        )
        request = JobRequest(
            spec=spec,
            store=store.uri,
            dataset=dataset,
            snapshots=SnapshotSettings(),
            compute=ComputeSettings(),
            created_by="benchmark",
            configuration={},
        )
        alone = timed(lambda: [codec.encode(batch) for batch in batches])
        whole = timed(lambda spec=spec, request=request: run_encoding(spec, request, store, rank))
        found.append((images / whole, images / alone))
    return found


class SafetensorsFolder(Dataset[dict[str, Tensor]]):
    """One safetensors file a sample; the latent is drawn anew each time."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.glob("*.safetensors"))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        stored = load_file(self._paths[index])
        mean = stored["latent_mean"]
        return {
            "x": torch.addcmul(mean, stored["latent_std"], torch.randn(mean.shape)),
            "prompt_embeds": stored["prompt_embeds"],
            "label": stored["label"],
        }


def samples(count: int) -> dict[str, Any]:
    """Random samples by column."""
    random = np.random.default_rng(0)
    rows: dict[str, Any] = {"label": np.arange(count) % 10}
    for column in COLUMNS:
        rows[column.name] = random.standard_normal((count, *column.shape), np.float32)
    return rows


def stored_dataset(folder: Path, count: int) -> DatasetInfo:
    """The samples as an encoded dataset."""
    stage = EncodingStage(str(folder / "latents"), "benchmark")
    names = tuple(map(str, range(10)))
    facts = ImageFacts(channels=0, image_size=0, class_names=names, horizontal_flip_safe=False, columns=COLUMNS)
    np.savez(folder / "tiny.npz", images=np.zeros((count, 2, 2, 3), np.uint8), labels=np.arange(count) % 10)
    source = ArraysSource(folder / "tiny.npz", horizontal_flip_safe=False)
    place = str(folder / "tiny")
    info = info_of(prepare(source, "tiny", place, staging_root=folder), place)
    rows = samples(count)
    for part in ranges_of(info.splits, facts.stored_columns):
        own = {name: values[part.start : part.stop] for name, values in rows.items()}
        stage.write(part.name, facts.stored_columns, own, 0)
    empty = {"label": np.zeros(1, np.int64), "prompt_embeds": rows["prompt_embeds"][:1]}
    stage.write("unconditional", unconditional_columns(COLUMNS), empty, 0)
    stage.publish(encoded_manifest(stage, "latents", facts, info, "0" * 64, "benchmark"))
    return find_dataset(str(folder / "latents"), folder)


def loading_ratio(folder: Path, count: int, updates: int, rounds: int) -> list[tuple[float, float]]:
    """(samples/s of our loader, of the DataLoader) in each round."""
    info = stored_dataset(folder, count)
    files = folder / "files"
    files.mkdir()
    rows = samples(count)
    for number in range(count):
        one = {name: torch.from_numpy(np.ascontiguousarray(values[number])) for name, values in rows.items()}
        save_file(one, files / f"{number:06d}.safetensors")
    keep_freed_memory()
    loader_module.IN_MEMORY_BYTES = 0
    ours = TrainingLoader(info, batch_size=BATCH, seed=0, flip=False)
    theirs = DataLoader(SafetensorsFolder(files), BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    for update in range(4):
        ours.batch(update)
    found, update = [], 4
    for _ in range(rounds):
        batches = iter(theirs)
        next(batches)
        wanted = count // BATCH - 1
        slow = timed(lambda batches=batches, wanted=wanted: deque(islice(batches, wanted), maxlen=1))
        del batches
        first = update
        fast = timed(lambda first=first: deque(map(ours.batch, range(first, first + updates)), maxlen=1))
        update += updates
        found.append((updates * BATCH / fast, wanted * BATCH / slow))
    ours.close()
    return found


class Row(NamedTuple):
    """A line of the table."""

    what: str
    found: list[tuple[float, float]]
    goal: float

    def __str__(self) -> str:
        ours, theirs = (statistics.median(column) for column in zip(*self.found, strict=True))
        ratio = statistics.median(one / other for one, other in self.found)
        return f"{self.what:<34}{ours:>10,.1f}{theirs:>12,.1f}{ratio:>9.2f}{self.goal:>7}"


def main() -> None:
    """Print the table, and write it to `latents_speed.txt`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=192, help="to encode")
    parser.add_argument("--size", type=int, default=128, help="their height and width in pixels")
    parser.add_argument("--samples", type=int, default=512, help="to load")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="where to write latents_speed.txt")
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    lines = [f"torch {torch.__version__}, {cores} cores, medians of {args.rounds} rounds, batches of {BATCH}"]
    lines.append(f"load average before: {os.getloadavg()[0]:.1f}")
    lines.append(f"{'a second':<34}{'ours':>10}{'the other':>12}{'ratio':>9}{'goal':>7}")
    with tempfile.TemporaryDirectory() as name:
        found = encoding_ratio(Path(name), args.images, args.size, args.rounds)
        lines.append(str(Row("images encoded; the VAE alone", found, 0.9)))
        torch.set_num_threads(1)
        found = loading_ratio(Path(name), args.samples, args.samples // BATCH, args.rounds)
        lines.append(str(Row("samples loaded; safetensors files", found, 3.0)))
    lines.append(f"load average after: {os.getloadavg()[0]:.1f}")
    print("\n".join(lines))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "latents_speed.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
