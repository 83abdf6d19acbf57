"""What happens in jobs, for programs: a worker's lines among those for people, and a file. No torch."""

import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

PREFIX = "progdistill-event: "
"""What comes before the JSON of an event in a worker's output; a launcher may put more before it."""


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    at: datetime
    job_id: str
    label: str = Field(description="what people call the job")


class TrainingEvent(_Event):
    """How far a training has come."""

    kind: Literal["training"] = "training"
    update: int
    updates: int
    loss: float = Field(description="mean over the updates since the event before")
    images_per_second: float
    remaining_seconds: float
    samples_key: str | None = Field(None, description="key of a PNG in the job's store: current samples")


class JobEvent(_Event):
    """What became of a job; "found" is one whose result the store had already."""

    kind: Literal["job"] = "job"
    state: Literal["found", "started", "finished", "failed"]


Event = TrainingEvent | JobEvent
Listener = Callable[[Event], None]

_READ: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="kind")])


def ignore(event: Event) -> None:
    """The listener of whoever wants to hear nothing."""


def say(event: Event) -> None:
    """Print an event as one line of standard output, for the launcher to find, if it is still there."""
    with suppress(BrokenPipeError):
        print(PREFIX + event.model_dump_json(), flush=True)


def event_in(line: str) -> Event | None:
    """The event in a line of a worker's output; None where the line is for people, or cut off."""
    _, found, text = line.partition(PREFIX)
    if not found:
        return None
    try:
        return _READ.validate_json(text)
    except ValidationError:
        return None


def deliver(line: str, listener: Listener) -> bool:
    """Give the event in a line to the listener; False where the line is for people."""
    event = event_in(line)
    if event is None:
        return False
    listener(event)
    return True


class EventFile:
    """A listener that keeps events, one line of JSON each, in a file that several processes may append to."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, event: Event) -> None:
        """Append the event."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(event.model_dump_json() + "\n")


class Harmless:
    """A listener whose failures stop no job: the first is said, for people; later events may do better."""

    def __init__(self, listener: Listener) -> None:
        self._listener, self._failed = listener, False

    def __call__(self, event: Event) -> None:
        """Hand on the event."""
        try:
            self._listener(event)
        except Exception as error:
            if not self._failed:
                what = f"{type(error).__name__}: {error}"
                print(f"what happens in jobs is not all shown ({what})", file=sys.stderr, flush=True)
            self._failed = True
