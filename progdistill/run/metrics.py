"""A run's progress as Prometheus metrics, in its text format, from what the store keeps."""

import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from progdistill.errors import TransientError, UsageError
from progdistill.run.progress_record import JobProgress
from progdistill.store.base import Store
from progdistill.store.layout import snapshots_prefix

PUSH_SECONDS: Final = 10.0


class Metric(NamedTuple):
    """A gauge: its name without `progdistill_`, and what it says."""

    name: str
    help: str


METRICS: Final = (
    Metric("job_running", "1 while a job runs, 0 once it has ended"),
    Metric("job_failed", "1 if a job has failed"),
    Metric("update", "updates of a training so far"),
    Metric("updates", "updates of a training in all"),
    Metric("loss", "mean loss since the point before"),
    Metric("images_per_second", "of a training, at its newest point"),
    Metric(
        "model_flops_utilization", "share of the rate of one large product of matrices that a training's model reaches"
    ),
    Metric("remaining_seconds", "of a training, as estimated at its newest point"),
    Metric("restarts", "how often the processes of a training began anew"),
    Metric("last_news_timestamp_seconds", "when the store last had news of a job"),
    Metric("last_snapshot_timestamp_seconds", "when a running training last saved a snapshot; absent before the first"),
)


def metrics_text(store: Store, jobs: Sequence[JobProgress]) -> str:
    """The metrics of a run's jobs, each labeled with run, dataset and job."""
    samples: dict[str, list[str]] = {metric.name: [] for metric in METRICS}
    for job in jobs:
        labels = ",".join(
            f'{name}="{_escaped(value)}"'
            for name, value in {"run": job.run, "dataset": job.dataset, "job": job.label}.items()
        )
        for name, value in _values(store, job).items():
            samples[name].append(f"progdistill_{name}{{{labels}}} {value!r}")
    lines = []
    for metric in METRICS:
        if samples[metric.name]:
            full = f"progdistill_{metric.name}"
            lines += [f"# HELP {full} {metric.help}", f"# TYPE {full} gauge", *samples[metric.name]]
    return "".join(f"{line}\n" for line in lines)


def check_pushgateway(url: str) -> None:
    """Raise UsageError for what is no address of a Pushgateway, or has a password, which would stand in messages."""
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise UsageError(
            "--metrics: the URL has a user or a password, which would be shown in messages: leave them out"
        )
    if parts.scheme not in ("http", "https"):
        raise UsageError(f"--metrics {url}: give a file, or the http or https URL of a Pushgateway")


def push(url: str, text: str) -> None:
    """Replace what a Pushgateway has of us. Raises TransientError if it does not take it."""
    address = f"{url.rstrip('/')}/metrics/job/progdistill"
    try:
        request = urllib.request.Request(address, text.encode(), {"Content-Type": "text/plain"}, method="PUT")
        urllib.request.urlopen(request, timeout=PUSH_SECONDS).close()
    except (OSError, ValueError) as error:
        raise TransientError(f"--metrics {url}: the Pushgateway did not take the metrics: {error}") from error


def _values(store: Store, job: JobProgress) -> dict[str, float]:
    values = {
        "job_running": float(job.state == "started"),
        "job_failed": float(job.state == "failed"),
        "last_news_timestamp_seconds": job.updated_at.timestamp(),
    }
    if (event := job.training) is not None:
        values |= {"update": float(event.update), "updates": float(event.updates), "loss": event.loss}
        values |= {"images_per_second": event.images_per_second, "remaining_seconds": event.remaining_seconds}
        if event.model_flops_utilization is not None:
            values["model_flops_utilization"] = event.model_flops_utilization
        values["restarts"] = float(job.restarts)
        never = datetime.min.replace(tzinfo=UTC)
        newest = max((item.modified_at for item in store.list(snapshots_prefix(job.job_id))), default=never)
        if newest is not never and job.state == "started":
            values["last_snapshot_timestamp_seconds"] = newest.timestamp()
    return values


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
