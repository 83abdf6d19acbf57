"""Cost of a store's bookkeeping against its number of checkpoints: list, resolve, collect.

    python benchmarks/store_scale.py [--checkpoints 1000 10000] [--store s3://bucket/prefix]

The checkpoints are real, with tiny weights, in chains of a base model and seven students; a tenth is held by runs, the
rest is garbage once it is older than the grace period, which is zero here. Every operation runs in a process of its
own; its CPU and wall-clock seconds are without imports, its memory is the peak growth of the resident set.
"""

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from progdistill.registry.checkpoint import CheckpointDescription, CheckpointKind, Provenance, publish_checkpoint
from progdistill.registry.gc import find_garbage, remove_garbage
from progdistill.registry.listing import list_checkpoints
from progdistill.registry.resolve import resolve_reference
from progdistill.registry.runs import record_run_checkpoint
from progdistill.store.base import Store
from progdistill.store.open import open_store

CHAIN = 8
MADE_AT = datetime(2026, 1, 1, tzinfo=UTC)


def fill(store: Store, first: int, last: int) -> None:
    """Publish checkpoints; every tenth chain belongs to a run."""
    provenance = Provenance(
        created_at=MADE_AT,
        code_version="0.1.0",
        code_dirty=False,
        packages={},
        device="cpu",
        host="here",
        created_by="DistillFlow/1",
        configuration={"seed": 1},
        dataset_name="digits",
    )
    parent = None
    with tempfile.TemporaryDirectory(dir=store.scratch()) as folder:
        for number in range(first, last):
            place = number % CHAIN
            path = Path(folder) / "weights.safetensors"
            save_file({"weight": np.array([number], np.float32)}, path)
            steps = None if place == 0 else 2 ** (CHAIN - 1 - place)
            description = CheckpointDescription(
                kind=CheckpointKind.BASE if place == 0 else CheckpointKind.STUDENT,
                sampling_steps=steps,
                prediction="v",
                loss_weight="snr_plus_one",
                architecture={"base_channels": 32},
                dataset_fingerprint="f" * 64,
                parent=None if place == 0 else parent,
                training={"updates": 10},
                seed=number,
                numerics_version=1,
            )
            parent = publish_checkpoint(store, path, description, provenance, consume=True).id
            if number // CHAIN % 10 == 0:
                record_run_checkpoint(store, "DistillFlow", str(number // CHAIN), steps or 2**CHAIN, parent)


def operations(uri: str) -> dict[str, Callable[[], Any]]:
    """What is measured, by name."""
    store = open_store(uri)
    some = next(store.list("checkpoints/")).key.split("/")[1]

    def collect() -> int:
        return remove_garbage(store, find_garbage(store, grace=timedelta(0)))

    return {
        "resolve a prefix": lambda: resolve_reference(store, some[:12]).id,
        "resolve a run": lambda: resolve_reference(store, "DistillFlow/0/1").id,
        "list": lambda: len(list_checkpoints(store)),
        "find garbage": lambda: len(find_garbage(store, grace=timedelta(0)).objects),
        "collect": collect,
    }


def measured(uri: str, name: str, results: Any) -> None:
    """Do an operation in this process; send its result and figures."""
    operation = operations(uri)[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    result = operation()
    results.put(
        {
            "operation": name,
            "result": result,
            "seconds": round(time.perf_counter() - wall, 3),
            "cpu_seconds": round(time.process_time() - cpu, 3),
            "mebibytes": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1),
        }
    )


def main() -> None:
    """Print a line per operation, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--store", help="an empty place; default: a temporary folder")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/store_scale.json"))
    args = parser.parse_args()
    spawn, rows, filled = multiprocessing.get_context("spawn"), [], 0
    with tempfile.TemporaryDirectory() as folder:
        uri = args.store or f"{folder}/store"
        for count in sorted(args.checkpoints):
            fill(open_store(uri), filled, count)
            filled = count
            for name in operations(uri):
                if name == "collect" and count != max(args.checkpoints):
                    continue  # it would leave fewer
                results = spawn.SimpleQueue()
                process = spawn.Process(target=measured, args=(uri, name, results))
                process.start()
                process.join()
                row = {"checkpoints": count, **results.get()}
                rows.append(row)
                print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    facts = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "cores": os.cpu_count(), "rows": rows}
    args.out.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
