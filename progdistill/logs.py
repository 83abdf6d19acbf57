"""Log lines for people: one configuration for every process that this package starts."""

import logging
import sys
from contextlib import suppress

from progdistill.escape import printable


class _CurrentStderr(logging.Handler):
    """Writes to whatever `sys.stderr` is at that moment, as `print` does."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # work that nobody watches any more is still work
            print(printable(self.format(record)), file=sys.stderr, flush=True)


def configure_logging(level: int = logging.INFO) -> None:
    """Send the package's log lines to standard error, as plain text. Commands and workers call it once.

    A program that imports the package configures `logging` itself.
    """
    logger = logging.getLogger("progdistill")
    if not logger.handlers:
        logger.addHandler(_CurrentStderr())
    logger.setLevel(level)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # diffusers imports it; it warns of kernels not used here
