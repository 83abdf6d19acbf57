"""What a driver keeps of a job's output: each line goes to a file and to standard error."""

import sys
from pathlib import Path


class LogFile:
    """Appends lines to a file that another driver of the job may write too.

    A file that takes no more (a full disk) costs the log, never the job: it is said once, and lines go on
    to standard error.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path.absolute()
        self._is_writable = True

    def write(self, line: str) -> None:
        """Write one line, given without its end."""
        if self._is_writable:
            try:
                with self.path.open("a") as file:
                    file.write(f"{line}\n")
            except OSError as error:
                self._is_writable = False
                _say(f"{self.path} takes no more lines ({error.strerror}); they follow here only")
        _say(line)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
