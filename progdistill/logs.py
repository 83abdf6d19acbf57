"""Log lines of every process that this package starts: text for people, or one JSON object a line."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final

from progdistill.escape import printable

LOG_FORMAT: Final = "PROGDISTILL_LOG_FORMAT"
"""Environment variable: `text` (the default) or `json`."""

_fields: dict[str, object] = {}  # what each JSON line of this process has besides its message


def is_json() -> bool:
    """Whether the lines of this process are JSON objects."""
    return os.environ.get(LOG_FORMAT) == "json"


@contextmanager
def log_fields(**fields: object) -> Iterator[None]:
    """Add fields, such as `job`, to the JSON lines that this process logs in the body."""
    before = _fields.copy()
    _fields.update(fields)
    try:
        yield
    finally:
        _fields.clear()
        _fields.update(before)


def as_line(message: str, *, level: str = "INFO", logger: str = "progdistill", **fields: object) -> str:
    """A message as a line of the log, in the format of this process.

    Args:
        message: Text, or a line of another process, whose own fields then stay.
        level: Name of the level.
        logger: Name of the logger.
        **fields: More fields of a JSON line.
    """
    if not is_json():
        return printable(for_people(message))
    if read_line(message) is not None:
        return message
    facts = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "level": level, "logger": logger}
    return json.dumps({**facts, "message": printable(message), **_fields, **fields}, ensure_ascii=False)


def read_line(line: str) -> dict[str, Any] | None:
    """The fields of a JSON line of a log; None for other text."""
    if not line.startswith('{"time": '):
        return None
    with suppress(ValueError):
        found = json.loads(line)
        if isinstance(found, dict) and isinstance(found.get("message"), str):
            return found
    return None


def for_people(line: str) -> str:
    """The text of a line in either format."""
    found = read_line(line)
    if found is None:
        return line
    rank = f"[rank {found['rank']}] " if found.get("rank") else ""
    return "\n".join([rank + found["message"], *([found["traceback"]] if found.get("traceback") else [])])


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        if not is_json():
            return printable(for_people(super().format(record)))
        fields = {} if record.exc_info is None else {"traceback": self.formatException(record.exc_info)}
        return as_line(record.getMessage(), level=record.levelname, logger=record.name, **fields)


class _CurrentStderr(logging.Handler):
    """Writes to whatever `sys.stderr` is at that moment, as `print` does."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # work that nobody watches any more is still work
            print(self.format(record), file=sys.stderr, flush=True)


def configure_logging(level: int = logging.INFO) -> None:
    """Send the package's log lines to standard error. Commands and workers call it once.

    As JSON, so are warnings of Python and the traceback of an error that nobody caught. A program that imports the
    package configures `logging` itself.
    """
    logger = logging.getLogger("progdistill")
    if not logger.handlers:
        handler = _CurrentStderr()
        handler.setFormatter(_Formatter())
        logger.addHandler(handler)
        if is_json():
            logging.captureWarnings(True)
            logging.getLogger("py.warnings").addHandler(handler)
            sys.excepthook = lambda *error: logger.critical("an error that nobody caught", exc_info=error)
        elif os.environ.get(LOG_FORMAT, "text") != "text":
            logger.warning("%s is %r; logging text: set it to text or json", LOG_FORMAT, os.environ[LOG_FORMAT])
    logger.setLevel(level)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # diffusers imports it; it warns of kernels not used here
