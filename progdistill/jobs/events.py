"""Events of jobs for programs: lines in a worker's output, and a file of JSON lines."""

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from progdistill.logs import as_line, is_json, read_line

logger = logging.getLogger(__name__)

PREFIX = "progdistill-event: "
"""Precedes the JSON of an event in a line of a worker's output; a launcher may put more before it.

Where lines are JSON themselves, an event is their field `event`.
"""


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    at: datetime
    job_id: str
    label: str  # name of the job for people


class TrainingEvent(_Event):
    """Progress of a training job."""

    kind: Literal["training"] = "training"
    update: int
    updates: int
    loss: float  # mean over the updates since the previous event
    images_per_second: float
    remaining_seconds: float
    samples_key: str | None = None  # of a PNG of current samples in the job's store
    seconds: float = 0.0  # that this process has trained
    world_size: int = 1
    device: str | None = None
    model_flops_utilization: float | None = None  # share of the rate of one large product of matrices there


class JobEvent(_Event):
    """State of a job; "found" means that the store already held its result."""

    kind: Literal["job"] = "job"
    state: Literal["found", "started", "finished", "failed"]


Event = TrainingEvent | JobEvent
Listener = Callable[[Event], None]

_READ: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def ignore(event: Event) -> None:
    """A listener that does nothing."""


def emit(event: Event) -> None:
    """Print an event as one line of standard output, from which the launcher parses it."""
    text = PREFIX + event.model_dump_json()
    if is_json():
        text = as_line(f"{event.label}: {event.kind}", logger=__name__, event=event.model_dump(mode="json"))
    with suppress(BrokenPipeError):
        print(text, flush=True)


def parse_event(line: str) -> Event | None:
    """Return the event in a line of a worker's output, None if the line has none or is cut off."""
    with suppress(ValidationError):
        if (fields := read_line(line)) is not None:
            return _READ.validate_python(fields["event"]) if "event" in fields else None
        _, found, text = line.partition(PREFIX)
        return _READ.validate_json(text) if found else None
    return None


def read_events(path: Path, position: int = 0) -> tuple[list[Event], int]:
    """The events in the whole lines of an EventFile from byte `position` on, and where they end."""
    if not path.exists():
        return [], position
    with path.open("rb") as file:
        file.seek(position)
        lines = file.read().rpartition(b"\n")[0].splitlines(keepends=True)
    found = (parse_event(PREFIX + line.decode()) for line in lines)
    return [event for event in found if event is not None], position + sum(map(len, lines))


class EventFile:
    """A listener that appends events as JSON lines to a file; several processes may append to it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, event: Event) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(event.model_dump_json() + "\n")


def suppress_errors(listener: Listener) -> Listener:
    """Wrap a listener so that its failures stop no job; only the first is logged."""
    failed = False

    def wrapper(event: Event) -> None:
        nonlocal failed
        try:
            listener(event)
        except Exception as error:
            if not failed:
                logger.warning("some job events were dropped (%s: %s)", type(error).__name__, error)
            failed = True

    return wrapper
