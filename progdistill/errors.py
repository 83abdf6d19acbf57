"""The kinds of failure, each with its exit status.

A message states what is wrong, which value, and what to do next: it is all that the user sees.
"""


class ProgdistillError(Exception):
    """Base of every error this package raises on purpose."""

    exit_status = 1


class UsageError(ProgdistillError):
    """A bad setting, missing input or unknown reference, found before work starts: the user has to fix it."""

    exit_status = 2


class TransientError(ProgdistillError):
    """A failure of the environment that may pass (network, busy store): retried, within a bound."""


class PeerLostError(TransientError):
    """Another rank of the job is gone, through no fault of this one: all ranks have to restart."""

    exit_status = 75


class LostInvariantError(ProgdistillError):
    """An invariant is violated (digest mismatch, NaN loss): the stage stops and keeps its last good state."""


class DeviceMemoryError(UsageError):
    """The work does not fit in the device's memory with these settings."""


class NonFiniteError(LostInvariantError):
    """A loss, gradient or sample is NaN or infinite: training diverged, and would diverge again."""

    exit_status = 3


class Interrupted(ProgdistillError):
    """Work was stopped by a signal (Ctrl-C, SIGTERM) and saved its state for the next run."""

    exit_status = 130


def require_between(option: str, value: float | None, least: float, most: float) -> None:
    """Raise UsageError for a number outside the bounds, or NaN; None, a number that was not given, passes."""
    if value is not None and not least <= value <= most:
        raise UsageError(f"{option} {value}: give a number from {least:,} to {most:,}")
