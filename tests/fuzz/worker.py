"""Reads mutated input, one folder after another, in a process whose memory is bounded; `run.py` starts it.

A request is a line of JSON with the target and the folder; the reply is one with the traceback, null where there is
none.
"""

import json
import os
import resource
import sys
import traceback
from pathlib import Path

from progdistill.errors import ProgdistillError
from tests import bare_machine
from tests.fuzz.targets import TARGETS

ADDRESS_SPACE = 6 * 2**30
"""Bytes that may be mapped beyond what the imported libraries map."""


def main() -> None:
    """Answer requests until standard input ends."""
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    bare_machine.clear(os.environ)
    import diffusers  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import torch

    torch.set_num_threads(1)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE, mapped + ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**32, 2**32))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in requests:
        request = json.loads(line)
        problem = _problem(request["target"], Path(request["folder"]))
        replies.write(json.dumps({"problem": problem, "resident": _resident_bytes()}) + "\n")


def _problem(target: str, folder: Path) -> str | None:
    os.chdir(folder)
    os.environ["PROGDISTILL_STORE"], os.environ["PROGDISTILL_DATA"] = str(folder / "store"), str(folder / "data")
    try:
        TARGETS[target].read()
    except (ProgdistillError, SystemExit):
        return None
    except BaseException:
        return traceback.format_exc()
    finally:
        sys.stderr.flush()
    return None


def _resident_bytes() -> int:
    """The most memory that this process has had; `ru_maxrss` begins with that of the process which started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


if __name__ == "__main__":
    main()
