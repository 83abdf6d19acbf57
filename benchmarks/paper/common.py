"""What the paper's experiments share: a sweep on small images, and a result file that docs/results.md is made from."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from progdistill.report.input import StageEntry, number
from progdistill.report.sweep import SweepReport, SweepRun, setting_text

RESULTS = Path(__file__).parents[1] / "results"
TOP = 64
"""Sampling steps of the undistilled models."""


class Setup(NamedTuple):
    """How an experiment is run."""

    dataset: str
    seeds: int
    base_updates: int
    updates_per_stage: int
    samples: int
    work: Path
    out: Path


def read_setup(text: str | None) -> Setup:
    """Parse the command line of an experiment; the defaults are those of the preset of the digits."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--base-updates", type=int, default=1000)
    parser.add_argument("--updates-per-stage", type=int, default=200)
    parser.add_argument("--samples", type=int, default=1000, help="images per measurement")
    parser.add_argument("--work", type=Path, default=Path(".paper"), help="folder of the runs and their store")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result file")
    return Setup(**vars(parser.parse_args()))


def sweep(setup: Setup, *options: str) -> SweepReport:
    """Run `progdistill sweep` in the work folder, whose store has the results of all experiments."""
    setup.work.mkdir(parents=True, exist_ok=True)
    line = [
        *(sys.executable, "-m", "progdistill.cli.main", "sweep", "--dataset", setup.dataset),
        *("--seeds", str(setup.seeds), "--base-updates", str(setup.base_updates)),
        *("--set", f"evaluation.samples={setup.samples}", *options),
    ]
    if "--updates-per-stage" not in options and not any(option.startswith("updates-per-stage=") for option in options):
        line += ["--updates-per-stage", str(setup.updates_per_stage)]
    root, id_file = str(Path(__file__).parents[2]), setup.work / f"run_id-{os.getpid()}"
    line += ["--run-id-file", id_file.name]
    subprocess.run(line, cwd=setup.work, env={**os.environ, "PYTHONPATH": root}, check=True)
    report = setup.work / "runs" / id_file.read_text().strip() / "report" / "sweep.json"
    id_file.unlink()
    return SweepReport.model_validate_json(report.read_text(encoding="utf-8"))


def undistilled(setup: Setup, *options: str) -> SweepReport:
    """A sweep for its base models, which sample with `TOP` steps: a sweep has a stage; here it is of one update."""
    return sweep(setup, "--ladder", f"{TOP},1", "--updates-per-stage", "1", *options)


def settings_of(report: SweepReport) -> dict[str, list[SweepRun]]:
    """The runs of each setting, by its text, in the order of the grid."""
    found: dict[str, list[SweepRun]] = {}
    for run in report.runs:
        found.setdefault(setting_text(run.setting), []).append(run)
    return found


def stages_at(runs: Iterable[SweepRun], sampling_steps: int) -> list[StageEntry]:
    """The stage of each run at a number of sampling steps."""
    return [stage for run in runs for stage in run.checkpoints if stage.sampling_steps == sampling_steps]


def spread(values: Sequence[float | None]) -> str:
    """Mean ± standard deviation (of a sample) as a cell of a table."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    return number(fmean(known)) + (f" ± {number(stdev(known))}" if len(known) > 1 else "")


def write_result(
    setup: Setup, name: str, report: SweepReport, header: Sequence[str], rows: Sequence[Sequence[str]], figures: Any
) -> None:
    """Write the result file of an experiment.

    Args:
        setup: how it was run.
        name: of the experiment; the file is `paper_NAME.json`.
        report: of a sweep of the experiment, which knows code and distance.
        header: of the table in docs/results.md.
        rows: of that table.
        figures: every measured number, as JSON values.
    """
    facts = {
        "experiment": name,
        **setup._asdict(),
        "distance": report.distance_name,
        "code_version": report.code_version,
        "header": list(header),
        "rows": [list(row) for row in rows],
        "figures": figures,
    }
    facts = {key: value for key, value in facts.items() if key not in ("work", "out")}
    path = setup.out / f"paper_{name}.json"
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path)
