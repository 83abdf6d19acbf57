"""Starts the flow as a user does, in a folder of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests import bare_machine

FLOW = Path(__file__).parents[2] / "flows" / "distill_flow.py"
SMALL = ("--base-updates", "12", "--updates-per-stage", "6", "--set", "evaluation.samples=50")


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without what would make the folder share state with others."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PROGDISTILL_", "METAFLOW_"))}
    return {**kept, **bare_machine.NO_FILES, "METAFLOW_USER": "tester", **extra}


def command(*arguments: str, flow: Path = FLOW) -> list[str]:
    """The command line of the flow."""
    return [sys.executable, str(flow), *arguments]


def run_flow(folder: Path, *arguments: str, flow: Path = FLOW, **extra: str) -> "subprocess.CompletedProcess[str]":
    """Run the flow to its end."""
    return subprocess.run(
        command(*arguments, flow=flow), cwd=folder, env=environment(**extra), capture_output=True, text=True
    )


def report_of(folder: Path) -> dict[str, Any]:
    """The newest report of a folder."""
    report: dict[str, Any] = json.loads((folder / "runs" / "latest" / "report" / "report.json").read_text())
    return report


def ids_of(folder: Path) -> list[str]:
    """Checkpoint ids of the newest report, from the teacher down."""
    return [checkpoint["id"] for checkpoint in report_of(folder)["checkpoints"]]
