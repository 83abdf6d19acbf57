"""Where the time of a training goes: a profiler's trace of a few updates, and a page that adds it up."""

import html
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile, schedule
from torch.utils.flop_counter import FlopCounterMode

from progdistill.models.config import DenoiserConfig
from progdistill.models.denoiser import unallocated
from progdistill.training.config import Precision
from progdistill.training.state import TrainingState

SKIPPED, WARM_UP, PROFILED = 4, 1, 10
LAST = SKIPPED + WARM_UP + PROFILED + 1
NEEDED_UPDATES = LAST + 1
"""The last update of a training is watched without the gradient of another before."""

PARTS = {
    "data": "waits for the batch, and copies it to the device",
    "forward": "the loss; of a student with its teacher's steps",
    "backward": "the gradient; with several ranks its exchange, which overlaps",
    "exchange": "the loss of all ranks",
    "optimizer": "norm of the gradient, optimizer and moving average",
    "waiting": "waits for the numbers of the last update",
    "snapshot": "copies the state for a snapshot",
}
OPERATORS = 15
"""Lines of the page's second table."""


def part(name: str) -> record_function:
    """Mark what follows, in a `with`, as one of PARTS; it costs a microsecond."""
    return record_function(f"progdistill.{name}")


def forward_flops(config: DenoiserConfig) -> int:
    """Floating-point operations of products and convolutions of one image's way through a network; nothing is run."""
    network, denoiser = config.network, unallocated(config).to("meta")  # with what else it holds
    columns = {c.name: torch.zeros(1, *c.shape, dtype=getattr(torch, c.dtype), device="meta") for c in network.columns}
    z, time_ = torch.empty(1, *network.sample_shape, device="meta"), torch.empty(1, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        denoiser.ask(denoiser.network, z, time_, columns or None, None)
    return int(counter.get_total_flops())


def product_rate(device: torch.device, precision: Precision) -> float:
    """Floating-point operations a second of one large product of matrices, the best of several, on this device."""
    size = 512 if device.type == "cpu" else 8192
    dtype = torch.bfloat16 if precision is Precision.BFLOAT16 else torch.float32
    left, seconds = torch.randn(size, size, dtype=dtype, device=device), []
    for _ in range(10):
        _synchronize(device)
        began = time.perf_counter()
        left @ left
        _synchronize(device)
        seconds.append(time.perf_counter() - began)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # of what is trained, not of this
    return 2 * size**3 / min(seconds)


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


class Work(NamedTuple):
    """What an update of one rank computes, on a device that was measured."""

    images: int
    flops_per_image: float
    """Of the model: one way forward and, for what is trained, two back; nothing that is computed again."""
    product_rate: float
    """Of the device, as `product_rate` measures it."""

    def utilization(self, updates_per_second: float) -> float:
        """Model FLOPs utilization (MFU): the share of the product's rate that the model's arithmetic reaches."""
        return updates_per_second * self.images * self.flops_per_image / self.product_rate


class ProfiledUpdates:
    """Watches a training, and when PROFILED updates have passed leaves trace.json and profile.html in a folder.

    The trace is for https://ui.perfetto.dev.
    """

    def __init__(self, folder: Path, work: Work) -> None:
        self._folder, self._work = folder, work
        self._updates, self._seconds = 0, 0.0
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        planned = schedule(wait=SKIPPED, warmup=WARM_UP, active=PROFILED, repeat=1)
        self._profiler = profile(activities=activities, schedule=planned)

    def __call__(self, state: TrainingState, loss: float) -> None:
        """See TrainingHooks.watch."""
        self._updates += 1
        if self._updates == 1:
            self._profiler.start()
        elif self._updates < LAST:
            self._profiler.step()
        elif self._updates == LAST:
            device = next(state.model.parameters()).device
            _synchronize(device)
            self._profiler.stop()
            self._folder.mkdir(parents=True, exist_ok=True)
            self._profiler.export_chrome_trace(str(self._folder / "trace.json"))
            page = _page(self._profiler, self._work, device)
            (self._folder / "profile.html").write_text(page, encoding="utf-8")


def _page(profiler: profile, work: Work, device: torch.device) -> str:
    events = {event.key: event for event in profiler.key_averages()}
    update = events["ProfilerStep*"].cpu_time_total / PROFILED / 1e6
    parts = {name: events.get(f"progdistill.{name}") for name in PARTS}
    host = {name: 0.0 if event is None else event.cpu_time_total / PROFILED / 1e6 for name, event in parts.items()}
    rows = [(name, PARTS[name], f"{1000 * seconds:.2f}", f"{seconds / update:.1%}") for name, seconds in host.items()]
    rest = update - sum(host.values())
    rows.append(("host", "everything else in Python", f"{1000 * rest:.2f}", f"{rest / update:.1%}"))
    busiest = sorted(events.values(), key=lambda event: -max(event.self_cpu_time_total, event.self_device_time_total))
    operators = [
        (event.key, f"{event.count / PROFILED:g}", *(f"{t / PROFILED / 1000:.2f}" for t in times))
        for event in busiest
        if not event.key.startswith(("progdistill.", "ProfilerStep"))
        for times in [(event.self_cpu_time_total, event.self_device_time_total)]
    ][:OPERATORS]
    facts = (
        f"{PROFILED} updates on one rank ({device}): {1000 * update:.2f} ms each under the profiler,"
        f" {work.images / update:,.0f} images/s. The model computes"
        f" {work.images * work.flops_per_image / update / 1e9:,.1f} GFLOP/s, {work.utilization(1 / update):.1%} of the"
        f" {work.product_rate / 1e9:,.1f} GFLOP/s that one large product reaches here (model FLOPs utilization)."
    )
    return "\n".join(
        (
            "<!doctype html><meta charset=utf-8><title>Where the time goes</title>",
            "<style>body{font:16px sans-serif;margin:2em}td,th{padding:.2em 1em;text-align:left}</style>",
            f"<h1>Where the time goes</h1><p>{html.escape(facts)}</p>",
            _table(("part", "what it is", "host, ms", "share"), rows),
            "<h2>Operators</h2>",
            _table(("operator", "calls", "host itself, ms", "device itself, ms"), operators),
        )
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for tag, row in [("th", head), *(("td", row) for row in rows)]
    ]
    return "<table>" + "\n".join(lines) + "</table>"
