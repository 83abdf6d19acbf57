"""How fast the store publishes and loads a large checkpoint, against plain copies of the same bytes.

Every repeat measures all operations one after the other, so that other load affects them equally; times are
medians. Ratios are plain time / our time: 1.0 is as fast as a plain copy, although ours hashes and syncs.

    python benchmarks/store_speed.py --bytes 1.2e9 --repeats 5 --folder /tmp --out benchmarks/results
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig

from progdistill.store.digest import digest_of_file
from progdistill.store.layout import blob_key
from progdistill.store.open import open_store

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.store.s3_server import ENVIRONMENT, running_server

Contender = tuple[str, Callable[[], object], Callable[[], object]]
"""A name, the timed function, and the function that restores the state afterward."""


def main() -> None:
    """Measure both stores and write `store_speed.json` and `store_speed.md`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=float, default=1.2e9)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        source = random_file(folder / "source", int(args.bytes))
        seconds = measure(local_contenders(folder, source), args.repeats)
        (folder / "s3").mkdir()
        with running_server(folder / "s3") as endpoint:
            seconds |= measure(s3_contenders(folder, source, endpoint), args.repeats)
    report(seconds, int(args.bytes), args.repeats, args.out)


def random_file(path: Path, size_bytes: int) -> Path:
    """Write a file of random bytes, and leave it in the page cache."""
    with open(path, "wb") as file:
        for start in range(0, size_bytes, 2**24):
            file.write(os.urandom(min(2**24, size_bytes - start)))
        os.fsync(file.fileno())
    return path


def local_contenders(folder: Path, source: Path) -> list[Contender]:
    """Copies by the standard library, and the local store's publication and verified load."""
    store = open_store(str(folder / "store"))
    copy, moved = folder / "copy", store.scratch() / "moved"
    digest = digest_of_file(source)

    def drop() -> None:
        store.delete(blob_key(digest.sha256))

    def drop_and_prepare() -> None:
        drop()
        shutil.copyfile(source, moved)
        sync(moved)

    def copy_durably() -> None:
        shutil.copyfile(source, copy)
        sync(copy)

    drop_and_prepare()
    # The loaded file was just moved in, so it is in the page cache, as is the source of the copies.
    return [
        ("copyfile", lambda: shutil.copyfile(source, copy), copy.unlink),
        ("copyfile + fsync", copy_durably, copy.unlink),
        ("publish (moved)", lambda: store.upload(moved, blob_key, consume=True), lambda: None),
        ("load", lambda: store.download(blob_key(digest.sha256), digest), drop),
        ("publish", lambda: store.upload(source, blob_key), drop_and_prepare),
    ]


def s3_contenders(folder: Path, source: Path, endpoint: str) -> list[Contender]:
    """Boto3's own parallel transfers, and the S3 store's publication and verified load."""
    os.environ |= {**ENVIRONMENT, "AWS_ENDPOINT_URL_S3": endpoint, "PROGDISTILL_CACHE": str(folder / "cache")}
    client = boto3.client("s3")
    client.create_bucket(Bucket="benchmark")
    store = open_store("s3://benchmark/store")
    digest, copy = store.upload(source, blob_key), folder / "copy"
    plain = TransferConfig(multipart_chunksize=2**24, max_concurrency=8)
    key = blob_key(digest.sha256)

    return [
        (
            "S3 plain upload",
            lambda: client.upload_file(str(source), "benchmark", "plain", Config=plain),
            lambda: store.delete(key),
        ),
        ("S3 publish", lambda: store.upload(source, blob_key), lambda: None),
        ("S3 plain download", lambda: client.download_file("benchmark", "plain", str(copy), Config=plain), copy.unlink),
        ("S3 load", lambda: store.download(key, digest), lambda: None),
        ("S3 load, cached", lambda: store.download(key, digest), lambda: shutil.rmtree(folder / "cache")),
    ]


def sync(path: Path) -> None:
    """Sync a file to disk."""
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    os.close(descriptor)


def measure(contenders: list[Contender], repeats: int) -> dict[str, list[float]]:
    """Seconds of each operation in each repeat, after a warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name, _, _ in contenders}
    for number in range(repeats + 1):
        for name, run, restore in contenders:
            os.sync()  # What earlier contenders left for the disk is not ours.
            began = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - began)
            restore()
        print(f"round {number} of {repeats} done", file=sys.stderr, flush=True)
    return seconds


RATIOS = (
    ("publish", "copyfile"),
    ("publish", "copyfile + fsync"),
    ("publish (moved)", "copyfile"),
    ("publish (moved)", "copyfile + fsync"),
    ("load", "copyfile"),
    ("S3 publish", "S3 plain upload"),
    ("S3 load", "S3 plain download"),
    ("S3 load, cached", "S3 plain download"),
)


def report(seconds: dict[str, list[float]], size_bytes: int, repeats: int, out: Path) -> None:
    """Write the results as JSON and as Markdown."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = [
        {"ours": ours, "plain": plain, "ratio": round(medians[plain] / medians[ours], 2)} for ours, plain in RATIOS
    ]
    facts: dict[str, Any] = {
        "bytes": size_bytes,
        "repeats": repeats,
        "cores": len(os.sched_getaffinity(0)),
        "load_average_at_the_end": os.getloadavg()[0],
        "seconds": seconds,
        "ratios": ratios,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "store_speed.json").write_text(json.dumps(facts, indent=2) + "\n")
    lines = [
        f"# Store speed: {size_bytes / 1e9:.2f} GB",
        "",
        f"{facts['cores']} cores, load average {facts['load_average_at_the_end']:.1f} at the end; medians of"
        f" {repeats} interleaved repeats.",
        "",
        "| operation | median s | min s | max s | GB/s |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {medians[name]:.2f} | {min(values):.2f} | {max(values):.2f}"
            f" | {size_bytes / 1e9 / medians[name]:.2f} |"
            for name, values in seconds.items()
        ),
        "",
        "| ours | plain | plain / ours |",
        "|---|---|---|",
        *(f"| {row['ours']} | {row['plain']} | {row['ratio']:.2f} |" for row in ratios),
        "",
        "Ours hashes every byte, and published files are on disk when it returns; `copyfile` alone neither",
        "verifies nor syncs. The S3 server runs on the same cores as its client.",
    ]
    (out / "store_speed.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
