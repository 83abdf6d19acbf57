"""Where `progdistill` starts: signals are handled before anything else is imported, which takes a third of a second."""

import sys

from progdistill.signals import handle_early_signals


def main() -> None:
    """Run one command with the arguments of the process, and exit."""
    handle_early_signals()
    from progdistill.cli.main import main as run

    sys.exit(run())
