"""Times as the API writes them."""

import datetime

UTC = datetime.UTC


def now() -> datetime.datetime:
    """The present time."""
    return datetime.datetime.now(UTC)


def stamp(moment: datetime.datetime | None = None) -> str:
    """metav1.Time: RFC 3339 in whole seconds."""
    return (moment or now()).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_stamp(moment: datetime.datetime | None = None) -> str:
    """metav1.MicroTime, and what log lines carry."""
    return (moment or now()).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse(text: str) -> datetime.datetime:
    """A time out of an object or a query."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def seconds_since(text: str) -> float:
    """Age of a time stamp."""
    return (now() - parse(text)).total_seconds()
