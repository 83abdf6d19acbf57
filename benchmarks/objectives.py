"""Objectives compared: distances of students of the same base models, after as many updates in all.

    python benchmarks/objectives.py [--dataset digits] [--seeds 5] [--only NAME …] [--set NAME=VALUE …] [--store FOLDER]

Each ladder has 1,200 updates, as the default run has. Trainings and measurements are jobs and records of the product in
a store; what that has is not repeated. Writes what this call measured to benchmarks/results/objectives_DATASET.json,
and leaves other ladders there. Then `python -m benchmarks.paper.tables` writes the table in docs/results.md.
"""

import argparse
import json
import re
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from progdistill.config.options import resolve_options
from progdistill.evaluation.runner import MeasurementRunner
from progdistill.jobs.forkserver import fork_server
from progdistill.registry.checkpoint import load_manifest
from progdistill.run.prepare import PreparedRun, prepare_run
from progdistill.run.steps import RunSteps
from progdistill.store.open import open_store

UPDATES = 1200
TOP = 64
"""Sampling steps of the undistilled model that students are compared with."""
RESULTS = Path(__file__).parent / "results"
SHOWN = ("8", "4", "2", "1")
"""Sampling steps that the table has."""


class Variant(NamedTuple):
    """A ladder with its objectives, and settings of its stages."""

    ladder: str
    settings: tuple[str, ...] = ()

    def prepared(self, seed: int, store: Path, dataset: str = "digits", common: Sequence[str] = ()) -> PreparedRun:
        """The run, whose stages share the updates evenly unless `settings` says otherwise."""
        options = {"dataset": dataset, "ladder": self.ladder, "store": str(store), "seed": seed}
        stages = len(prepare_run(resolve_options(options)).settings.ladder) - 1
        chosen = (f"distill.updates={UPDATES // stages}", *common, *self.settings)
        run = prepare_run(resolve_options({**options, "set": chosen}))
        updates = sum(training.updates for training in run.trainings[1:])
        if updates != UPDATES:
            raise SystemExit(f"{self.ladder} with {chosen} has {updates} updates, not {UPDATES}")
        return run


MUON = ("distill.optimizer=muon", "distill.learning_rate=2e-3", "distill.loss=pseudo_huber")
MOST_LAST = 'distill.updates_at_steps={"16": 100, "8": 150, "4": 200, "2": 350, "1": 400}'
MOST_LAST_TWO = 'distill.updates_at_steps={"16": 60, "8": 90, "4": 150, "2": 350, "1": 550}'

VARIANTS = {
    "halving (default)": Variant("64:1"),
    "one stage per factor of 8": Variant("64,8,1"),
    "TRACT, a factor of 8": Variant("64,8:tract,1:tract"),
    "halving, then TRACT": Variant(
        "64,32,16,8,1:tract", ("distill.updates=200", 'distill.updates_at_steps={"1": 600}')
    ),
    "halving, most updates last": Variant(
        "64:1", ('distill.updates_at_steps={"32": 60, "16": 60, "8": 120, "4": 200, "2": 300, "1": 460}',)
    ),
    "from 32 steps of Heun, most updates last": Variant("32:1", ("distill.teacher_solver=heun", MOST_LAST)),
    "halving, Muon": Variant("64:1", ("distill.optimizer=muon", "distill.learning_rate=2e-3")),
    "from 32 steps of Heun, Muon, pseudo-Huber, most updates last": Variant(
        "32:1", ("distill.teacher_solver=heun", *MUON, MOST_LAST_TWO)
    ),
    "the same to two steps": Variant(
        "32:2",
        ("distill.teacher_solver=heun", *MUON, 'distill.updates_at_steps={"16": 100, "8": 200, "4": 350, "2": 550}'),
    ),
    "TRACT, a factor of 8, Muon, pseudo-Huber": Variant("64,8:tract,1:tract", MUON),
}


def distances(run: PreparedRun, name: str) -> dict[int, float]:
    """Distance by sampling steps; that of the undistilled model at `TOP` steps comes first, whatever the ladder."""
    settings = run.settings
    steps = RunSteps(run, "Objectives", re.sub("[^a-z0-9]+", "-", f"{name} {settings.seed}".lower()))
    checkpoint = steps.first_teacher()
    ids = [checkpoint["id"]]
    for stage_index in range(1, len(settings.ladder)):
        checkpoint = steps.distill(checkpoint, stage_index)
        ids.append(checkpoint["id"])
    store = open_store(settings.store)
    runner = MeasurementRunner(store, settings.evaluation, run.dataset)
    found = {}
    for sampling_steps, checkpoint_id in [(TOP, ids[0]), *zip(settings.ladder[1:], ids[1:], strict=True)]:
        planned = runner.plan(load_manifest(store, checkpoint_id), None, sampling_steps)
        spec = next(planned.spec for planned in planned if planned.field == "distilled")
        found[sampling_steps] = runner.run(spec).distance
    return found


def main() -> None:
    """Compare, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings of all runs")
    parser.add_argument("--store", type=Path, help="where trainings are kept, for another call; default: nowhere")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, fork_server():
        store = (arguments.store or Path(folder)).resolve()
        found = {
            name: [
                distances(VARIANTS[name].prepared(seed, store, arguments.dataset, arguments.set), name)
                for seed in range(arguments.seeds)
            ]
            for name in arguments.only
        }
    results = RESULTS / f"objectives_{arguments.dataset}.json"
    known = json.loads(results.read_text(encoding="utf-8"))["figures"] if results.is_file() else {}
    figures = known | {name: figures_of(VARIANTS[name], seeds) for name, seeds in found.items()}
    text = json.dumps(document(figures, arguments.set), indent=1, ensure_ascii=False)
    results.write_text(text + "\n", encoding="utf-8")


def figures_of(variant: Variant, seeds: list[dict[int, float]]) -> dict[str, Any]:
    """Every measured distance of a ladder, and over its teacher's as mean and standard deviation of the seeds."""
    ratios = {
        steps: [measured[steps] / measured[max(measured)] for measured in seeds] for steps in sorted(seeds[0])[::-1]
    }
    return {
        "ladder": variant.ladder,
        "settings": list(variant.settings),
        "of_teacher": {
            str(steps): [statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None]
            for steps, values in ratios.items()
        },
        "distances": [{str(steps): distance for steps, distance in measured.items()} for measured in seeds],
    }


def document(figures: dict[str, Any], common: Sequence[str] = ()) -> dict[str, Any]:
    """The result file: a table, and the figures that it is made from."""
    rows = []
    for name, facts in figures.items():
        cells = [facts["of_teacher"].get(steps) for steps in SHOWN]
        shown = ["" if cell is None else f"{cell[0]:.2f}" + (f" ± {cell[1]:.2f}" if cell[1] else "") for cell in cells]
        settings = "; ".join(f"`{setting}`" for setting in facts["settings"])
        rows.append([name, f"`{facts['ladder']}`", settings, str(len(facts["distances"])), *shown])
    header = ["", "ladder", "settings", "seeds", *(f"{steps} step{'s' * (steps != '1')}" for steps in SHOWN)]
    shared = f" Settings of all: {', '.join(f'`{setting}`' for setting in common)}." if common else ""
    note = f"{UPDATES:,} updates each, same base models; distance over the base model's at {TOP} steps of DDIM.{shared}"
    return {
        "note": note,
        "seeds": max(len(one["distances"]) for one in figures.values()),
        "header": header,
        "rows": rows,
        "figures": figures,
    }


if __name__ == "__main__":
    main()
