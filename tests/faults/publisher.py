"""A process that publishes one checkpoint: `python -m tests.faults.publisher STORE WEIGHTS HOST`.

Like the command line it turns our errors into one message and their exit status.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def start(store: str, weights: Path, host: str = "here", **environment: str) -> "subprocess.Popen[str]":
    """Start a publisher as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.publisher", store, str(weights), host],
        cwd=REPOSITORY,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def publish(store: str, weights: Path, **environment: str) -> tuple[int, str, str]:
    """Run a publisher to its end; returns its exit status, what it printed, and its message."""
    process = start(store, weights, **environment)
    printed, message = process.communicate()
    return process.returncode, printed.strip(), message


def main() -> int:
    """Publish and print the id."""
    from progdistill.errors import ProgdistillError
    from progdistill.registry.checkpoint import publish_checkpoint
    from progdistill.store.open import open_store
    from tests.registry.samples import description, provenance

    store, weights, host = sys.argv[1:]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # A file-size limit then reads as a full disk.
    try:
        manifest = publish_checkpoint(open_store(store), Path(weights), description(), provenance(host=host))
    except ProgdistillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    print(manifest.id, manifest.provenance.host)
    return 0


if __name__ == "__main__":
    sys.exit(main())
