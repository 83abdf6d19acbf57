"""Log lines for people: one configuration for every process that this package starts."""

import logging
import sys


class _CurrentStderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to whatever `sys.stderr` is at that moment, as `print` does."""

    @property
    def stream(self):  # type: ignore[no-untyped-def]
        return sys.stderr

    @stream.setter
    def stream(self, stream: object) -> None:
        pass


def configure_logging(level: int = logging.INFO) -> None:
    """Send the package's log lines to standard error, as plain text. Commands and workers call it once.

    A program that imports the package configures `logging` itself.
    """
    logger = logging.getLogger("progdistill")
    if not logger.handlers:
        handler = _CurrentStderr()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(level)
