"""How long snapshots stall the training loop: a loop with a snapshot every 100 steps against one without.

The state is that of AdamW with an EMA (four copies of the weights). Loops with and without snapshots
alternate; times are medians. The stall is the time in `save`. The slowdown also includes the cost of the
writing thread, which competes for cores, memory and disk.

    python benchmarks/snapshot_stall.py --parameters 8e6 --steps 300 --out benchmarks/results
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from progdistill.store.open import open_store
from progdistill.training.snapshots import SnapshotWriter


def main() -> None:
    """Measure and write `snapshot_stall.json` and `snapshot_stall.md`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=8e6)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--interval", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    loop = Loop(int(args.parameters))
    plain, snapshotting, stalls = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.repeats):
            plain.append(loop.run(args.steps, args.interval, None))
            writer = SnapshotWriter(open_store(folder), f"job-{number}")
            snapshotting.append(loop.run(args.steps, args.interval, writer))
            stalls.append(writer.stalled_seconds / snapshotting[-1])
            writer.wait()
    report(args, loop.state_bytes, plain, snapshotting, stalls)


class Loop:
    """A training loop of a small network with state of the given size."""

    def __init__(self, parameters: int) -> None:
        width = int((parameters / 4) ** 0.5)
        self._network = nn.Sequential(*(nn.Linear(width, width) for _ in range(4)))
        self._optimizer = torch.optim.AdamW(self._network.parameters(), lr=1e-4, fused=True)
        self._ema = [parameter.detach().clone() for parameter in self._network.parameters()]
        self._batch = torch.randn(64, width)
        self._step()

    @property
    def state_bytes(self) -> int:
        """Size of a snapshot in bytes."""
        return sum(tensor.nbytes for tensor in self._state().values())

    def run(self, steps: int, interval: int, writer: SnapshotWriter | None) -> float:
        """Train; a snapshot every `interval` steps if there is a writer. Returns seconds."""
        began = time.perf_counter()
        for step in range(1, steps + 1):
            self._step()
            if writer is not None and step % interval == 0:
                writer.save(step, self._state(), {"step": step})
        return time.perf_counter() - began

    def _step(self) -> None:
        self._optimizer.zero_grad()
        self._network(self._batch).square().mean().backward()
        self._optimizer.step()
        torch._foreach_lerp_(self._ema, list(self._network.parameters()), 1e-3)

    def _state(self) -> dict[str, Tensor]:
        parameters = list(self._network.parameters())
        state = {f"weight.{number}": parameter.detach() for number, parameter in enumerate(parameters)}
        state |= {f"ema.{number}": tensor for number, tensor in enumerate(self._ema)}
        for number, parameter in enumerate(parameters):
            moments = self._optimizer.state[parameter]
            state |= {f"{name}.{number}": moments[name] for name in ("exp_avg", "exp_avg_sq", "step")}
        return state


def report(
    args: argparse.Namespace, state_bytes: int, plain: list[float], snapshotting: list[float], stalls: list[float]
) -> None:
    """Write the results as JSON and as Markdown."""
    slowdown = statistics.median(snapshotting) / statistics.median(plain) - 1
    facts = {
        "state_bytes": state_bytes,
        "steps": args.steps,
        "interval": args.interval,
        "cores": len(os.sched_getaffinity(0)),
        "load_average_at_the_end": os.getloadavg()[0],
        "plain_seconds": plain,
        "snapshotting_seconds": snapshotting,
        "stall_share": stalls,
        "median_stall_share": statistics.median(stalls),
        "median_slowdown": slowdown,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "snapshot_stall.json").write_text(json.dumps(facts, indent=2) + "\n")
    lines = [
        f"# Snapshot stall: {state_bytes / 1e6:.0f} MB of state every {args.interval} steps,"
        f" {facts['cores']} cores, medians of {args.repeats} alternating loops",
        "",
        "| quantity | value |",
        "|---|---|",
        f"| one step without snapshots | {1000 * statistics.median(plain) / args.steps:.1f} ms |",
        f"| share of the loop spent in `save` | {100 * facts['median_stall_share']:.2f} % |",
        f"| slowdown of the whole loop | {100 * slowdown:.2f} % |",
        f"| fastest loop without, with snapshots | {min(plain):.2f} s, {min(snapshotting):.2f} s |",
    ]
    (args.out / "snapshot_stall.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
