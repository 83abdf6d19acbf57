"""Named points at which a test can kill or hold this process: proof that nothing is lost or harmed."""

import os
import signal
import time
from collections import Counter
from typing import Final

VARIABLE: Final = "PROGDISTILL_FAULT"
"""`kill:POINT` or `kill:POINT@N` (the N-th passage) makes the process kill itself with SIGKILL there;
`hold:POINT@N:FILE` says that it is there and stays until FILE is, while a test does what it means to do."""

HOLD_SECONDS: Final = 300.0
"""The longest stay: a process must not outlive by hours a test that failed before it let go."""

_passages: Counter[str] = Counter()


def failpoint(point: str) -> None:
    """Pass the named point; die or wait here if the environment asks for it."""
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    _passages[point] += 1
    action, _, rest = wanted.partition(":")
    place, _, release = rest.partition(":")
    name, _, number = place.partition("@")
    if name != point or _passages[point] != int(number or 1):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "hold":
        print(f"reached {point}", flush=True)
        deadline = time.monotonic() + HOLD_SECONDS
        while not os.path.exists(release) and time.monotonic() < deadline:
            time.sleep(0.02)
