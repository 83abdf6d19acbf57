"""`progdistill watch`: shows a run while it goes, from any machine that reaches the store."""

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from progdistill.cli.common import Verbs, add_verb, check_output, print_json, store_of, writing
from progdistill.config.ladder import format_ladder
from progdistill.errors import ProgdistillError, UsageError, require_between
from progdistill.escape import printable
from progdistill.progress import format_duration
from progdistill.run.estimate import Prices, read_prices
from progdistill.run.metrics import check_pushgateway, metrics_text, push
from progdistill.run.progress_record import JobProgress, newest_run, progress_of
from progdistill.store.base import Store
from progdistill.store.files import atomic_write
from progdistill.store.layout import PROGRESS, report_key

_STATES: Final = {
    "found": "found in the store",
    "started": "running",
    "finished": "done",
    "failed": "failed or interrupted",
}

QUIET_SECONDS: Final = 300.0
"""Without news for so long, a job is shown with the age of its last news."""
CLEAR: Final = "\x1b[H\x1b[2J"
BARS: Final = "▁▂▃▄▅▆▇█"
LONGEST_DAY: Final = 86_400.0


def add_parser(verbs: Verbs) -> None:
    """Add the verb."""
    text = "show stage, rate, ETA, loss, cost and current samples of a run while it goes"
    examples = """
        progdistill watch
        progdistill watch RUN --store s3://BUCKET/models --samples now.png
        """
    parser = add_verb(verbs, "watch", _watch, text, examples=examples)
    parser.add_argument("run_name", metavar="RUN", nargs="?", help="run id, or Flow/run id (default: the newest run)")
    text = "keep the current samples of the stage in this PNG"
    parser.add_argument("--samples", type=Path, metavar="FILE", help=text)
    text = "keep the run's metrics in this file, in Prometheus' text format, or push them to this Pushgateway"
    parser.add_argument("--metrics", metavar="FILE|URL", help=text)
    text = "seconds between two looks (default: %(default)g)"
    parser.add_argument("--interval", type=float, default=5.0, metavar="SECONDS", help=text)
    parser.add_argument("--once", action="store_true", help="print once and exit; --json does, too")


def _watch(args: argparse.Namespace) -> int:
    require_between("--interval", args.interval, 0.1, LONGEST_DAY)
    store, prices = store_of(args), read_prices()
    if args.samples is not None:
        check_output("--samples", args.samples)
    if args.metrics is not None and "://" in args.metrics:
        check_pushgateway(args.metrics)
    elif args.metrics is not None:
        check_output("--metrics", Path(args.metrics))
    flow, run_id = _run_to_watch(store, args.run_name)
    shown = ""
    while True:
        jobs = progress_of(store, flow, run_id)
        report = _report_uri(store, flow, run_id)
        drawn = _keep_samples(store, jobs, args.samples)
        _keep_metrics(store, jobs, args.metrics)
        if args.json:
            print_json(_facts(jobs, prices, report))
            return 0
        lines = "\n".join(_lines(store, jobs, prices, report))
        if lines != shown:
            print(f"{CLEAR if sys.stdout.isatty() else ''}{printable(lines)}", flush=True)
            shown = lines
        if args.once or report is not None:
            if not drawn:
                print(f"note: {args.samples} was not written: no training has samples now", file=sys.stderr)
            return 0
        if jobs[-1].state == "failed":
            raise ProgdistillError(f"the run failed or was interrupted; {_resume_command(jobs)}")
        time.sleep(args.interval)


def _run_to_watch(store: Store, name: str | None) -> tuple[str, str]:
    """Flow and run id of a run of which the store has progress."""
    if name is None:
        if (newest := newest_run(store)) is None:
            raise UsageError(f"no run in store {store.uri} yet: start one, or name its store with --store")
        return newest
    flow, _, run_id = name.rpartition("/")
    if not progress_of(store, flow or "DistillFlow", run_id):
        known = sorted({"/".join(item.key.split("/")[1:3]) for item in store.list(PROGRESS)})
        there_is = f"there are {', '.join(known[-5:])}" if known else "no run has begun there yet"
        raise UsageError(f"no progress of run {name} in store {store.uri}; {there_is}")
    return flow or "DistillFlow", run_id


def _report_uri(store: Store, flow: str, run_id: str) -> str | None:
    key = report_key(flow, run_id)
    return f"{store.uri}/{key}" if next(store.list(key), None) is not None else None


def _samples_key(jobs: Sequence[JobProgress]) -> str | None:
    """Of the samples of the job that trains."""
    found = [job.training.samples_key for job in jobs if job.training is not None and job.state == "started"]
    return found[-1] if found else None


def _keep_samples(store: Store, jobs: Sequence[JobProgress], file: Path | None) -> bool:
    """Write the current samples where they are wanted; False if there are none."""
    if file is None:
        return True
    key = _samples_key(jobs)
    if (picture := None if key is None else store.read(key)) is not None:
        with writing("--samples", file):
            file.write_bytes(picture)
    return picture is not None


def _keep_metrics(store: Store, jobs: Sequence[JobProgress], place: str | None) -> None:
    if place is None:
        return
    text = metrics_text(store, jobs)
    if "://" in place:
        push(place, text)
        return
    with writing("--metrics", Path(place)):
        atomic_write(Path(place), text.encode())  # a collector never reads half a file


def _facts(jobs: Sequence[JobProgress], prices: Prices, report: str | None) -> dict[str, Any]:
    first = jobs[0]
    return {
        "run": first.run,
        "dataset": first.dataset,
        "ladder": first.ladder,
        "jobs": [job.model_dump(mode="json") for job in jobs],
        "device_hours": {device: seconds / 3600 for device, seconds in _device_seconds(jobs).items()},
        "cost": _cost(jobs, prices),
        "currency": prices.currency,
        "report": report,
    }


def _lines(store: Store, jobs: Sequence[JobProgress], prices: Prices, report: str | None) -> list[str]:
    first, width = jobs[0], max(len(job.label) for job in jobs)
    lines = [f"{first.run} · {first.dataset} · {format_ladder(first.ladder)}"]
    lines += [f"  {job.label.ljust(width)}  {_job_line(job)}" for job in jobs]
    if spent := _device_seconds(jobs):
        hours = ", ".join(f"{seconds / 3600:,.2g} device hours on {device}" for device, seconds in spent.items())
        cost = _cost(jobs, prices)
        price = "" if cost is None else f", {cost:,.2f} {prices.currency}".rstrip()
        lines.append(f"  training so far: {hours}{price}")
    if (key := _samples_key(jobs)) is not None:
        lines.append(f"  samples: {store.uri}/{key}")
    if report is not None:
        lines.append(f"  report: {report}")
    elif jobs[-1].state == "failed":
        lines.append(f"  {_resume_command(jobs)}")
    return lines


def _resume_command(jobs: Sequence[JobProgress]) -> str:
    run_id = jobs[-1].run.rpartition("/")[2]
    return f"where it was started: progdistill resume --origin-run-id {run_id}"


def _job_line(job: JobProgress) -> str:
    """State, updates, loss, rate and what remains of one job."""
    parts = [_STATES[job.state].ljust(8)]
    if (event := job.training) is not None:
        parts += [f"{event.update:,}/{event.updates:,} updates", f"loss {event.loss:.4g}"]
        if job.state == "started":
            eta = format_duration(event.remaining_seconds)
            mfu = event.model_flops_utilization
            parts += [f"{event.images_per_second:,.0f} images/s", "" if mfu is None else f"MFU {mfu:.1%}"]
            parts += [f"ETA {eta}", _curve(job.losses)]
    if job.state == "finished":
        parts.append(format_duration((job.updated_at - job.began_at).total_seconds()))
    silent = (datetime.now(UTC) - job.updated_at).total_seconds()
    if job.state == "started" and silent > QUIET_SECONDS:
        parts.append(f"no news for {format_duration(silent)}")
    return "  ".join(part for part in parts if part).rstrip()


def _curve(losses: Sequence[tuple[int, float]], width: int = 16) -> str:
    """The last losses as a line of bars, from the smallest to the largest of them."""
    values = [loss for _, loss in losses[-width:]]
    if len(values) < 2:
        return ""
    low, span = min(values), (max(values) - min(values)) or 1.0
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in values)


def _device_seconds(jobs: Sequence[JobProgress]) -> dict[str, float]:
    """Seconds of training times ranks, by device."""
    spent: dict[str, float] = {}
    for job in jobs:
        if job.training is not None:
            device = job.training.device or "unknown device"
            spent[device] = spent.get(device, 0.0) + job.device_seconds
    return spent


def _cost(jobs: Sequence[JobProgress], prices: Prices) -> float | None:
    """What the training so far has cost; None where the price of a device is unknown."""
    spent = _device_seconds(jobs)
    if not spent or not spent.keys() <= prices.per_device_hour.keys():
        return None
    return sum(seconds / 3600 * prices.per_device_hour[device] for device, seconds in spent.items())
