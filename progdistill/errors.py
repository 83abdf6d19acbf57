"""The three kinds of failure, each with its exit status.

Every message states what is wrong, which value, and what to do next: it is all the user sees.
"""


class ProgdistillError(Exception):
    """Base of every error this package raises on purpose."""

    exit_status = 1


class UsageError(ProgdistillError):
    """A bad setting, missing input or unknown reference: found before work starts, and the user's to mend."""

    exit_status = 2


class TransientError(ProgdistillError):
    """A fault of the surroundings that may pass (network, busy store): retried, within a bound."""


class PeerLostError(TransientError):
    """Another rank of the job is gone: no fault of this one, which can only leave for all to start again."""

    exit_status = 75


class LostInvariantError(ProgdistillError):
    """Something that must hold does not (digest mismatch, NaN loss): the stage stops, good state is kept."""


class WorkInterrupted(ProgdistillError):
    """Work was asked to stop (Ctrl-C, SIGTERM) and left its state where the next run finds it."""

    exit_status = 130
