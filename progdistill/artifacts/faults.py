"""Named points at which a test can kill or hold this process: proof that nothing is lost or harmed."""

import os
import signal
import time
from collections import Counter
from typing import Final

VARIABLE: Final = "PROGDISTILL_FAULT"
"""`kill:POINT` or `kill:POINT@N` (the N-th passage) makes the process kill itself with SIGKILL there;
`hold:POINT@N` says that it is there and stays for a while, in which a test can send a signal."""

LOCAL_POINTS: Final = (
    "file.copying",
    "file.copied",
    "file.synced",
    "file.published",
    "object.written",
    "object.synced",
    "object.published",
)
"""Every point of a publication into a local store, in order of first passage."""

S3_POINTS: Final = ("upload.created", "upload.part", "upload.parts", "upload.completed", "object.put")
"""Every point of a publication into an S3 store, in order of first passage."""

HOLD_SECONDS: Final = 5.0

_passages: Counter[str] = Counter()


def reach(point: str) -> None:
    """Pass the named point; die or wait here if the environment asks for it."""
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    _passages[point] += 1
    action, _, place = wanted.partition(":")
    name, _, number = place.partition("@")
    if name != point or _passages[point] != int(number or 1):
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "hold":
        print(f"reached {point}", flush=True)
        time.sleep(HOLD_SECONDS)
