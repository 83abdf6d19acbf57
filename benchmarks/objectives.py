"""Objectives compared on digits: distances of students of the same base models, after as many updates in all.

    python benchmarks/objectives.py [--seeds 5] [--only NAME …] [--store FOLDER]

Each ladder has 1,200 updates, as the default run has. Trainings and measurements are jobs and records of the product in
a store; what that has already is not repeated. Writes the rows of this call to benchmarks/results/objectives.json, and
leaves those of other ladders there; docs/results.md has its table from that file.
"""

import argparse
import json
import re
import statistics
import tempfile
from pathlib import Path
from typing import NamedTuple

from progdistill.config.options import resolve_options
from progdistill.evaluation.runner import MeasurementRunner
from progdistill.jobs.forkserver import fork_server
from progdistill.registry.checkpoint import load_manifest
from progdistill.run.prepare import PreparedRun, prepare_run
from progdistill.run.steps import RunSteps
from progdistill.store.open import open_store

UPDATES = 1200
RESULTS = Path(__file__).parent / "results/objectives.json"


class Variant(NamedTuple):
    """A ladder with its objectives, and settings of its stages."""

    ladder: str
    settings: tuple[str, ...] = ()

    def prepared(self, seed: int, store: Path) -> PreparedRun:
        """The run, whose stages share the updates evenly unless `settings` says otherwise."""
        stages = len(prepare_run(resolve_options({"ladder": self.ladder, "store": str(store)})).settings.ladder) - 1
        chosen = [f"distill.updates={UPDATES // stages}", *self.settings]
        run = prepare_run(
            resolve_options({"ladder": self.ladder, "store": str(store), "seed": seed, "set": tuple(chosen)})
        )
        updates = sum(training.updates for training in run.trainings[1:])
        if updates != UPDATES:
            raise SystemExit(f"{self.ladder} with {chosen} has {updates} updates, not {UPDATES}")
        return run


VARIANTS = {
    "halving": Variant("64:1"),
    "64,8,1 progressive": Variant("64,8,1"),
    "64,8,1 TRACT": Variant("64,8:tract,1:tract"),
    "64,8,2,1 TRACT": Variant("64,8:tract,2:tract,1:tract"),
    "halving to 8, then TRACT": Variant(
        "64,32,16,8,1:tract", ("distill.updates=200", 'distill.updates_at_steps={"1": 600}')
    ),
}


def distances(run: PreparedRun, name: str) -> dict[int, float]:
    """Distance by sampling steps, the teacher's first."""
    steps = RunSteps(run, "Objectives", re.sub("[^a-z0-9]+", "-", name.lower()))
    settings = run.settings
    checkpoint = steps.first_teacher()
    ids = [checkpoint["id"]]
    for stage_index in range(1, len(settings.ladder)):
        checkpoint = steps.distill(checkpoint, stage_index)
        ids.append(checkpoint["id"])
    store = open_store(settings.store)
    runner = MeasurementRunner(store, settings.evaluation, run.dataset)
    found = {}
    for sampling_steps, checkpoint_id in zip(settings.ladder, ids, strict=True):
        planned = runner.plan(load_manifest(store, checkpoint_id), None, sampling_steps)
        spec = next(planned.spec for planned in planned if planned.field == "distilled")
        found[sampling_steps] = runner.run(spec).distance
    return found


def main() -> None:
    """Compare, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--store", type=Path, help="where trainings are kept, for another call; default: nowhere")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, fork_server():
        store = (arguments.store or Path(folder)).resolve()
        found = {
            name: [distances(VARIANTS[name].prepared(seed, store), name) for seed in range(arguments.seeds)]
            for name in arguments.only
        }
    rows = {name: row(name, found[name]) for name in found}
    for name, facts in rows.items():
        print(name, facts["of_teacher"])
    others = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps({"updates": UPDATES, "rows": others | rows}, indent=1) + "\n")


def row(name: str, seeds: list[dict[int, float]]) -> dict[str, object]:
    """Means and standard deviations over seeds, by sampling steps, of the distance over the teacher's."""
    variant = VARIANTS[name]
    ratios: dict[int, list[float]] = {}
    for measured in seeds:
        teacher = max(measured)
        for steps, distance in measured.items():
            ratios.setdefault(steps, []).append(distance / measured[teacher])
    return {
        "ladder": variant.ladder,
        "settings": list(variant.settings),
        "of_teacher": {
            steps: [round(statistics.mean(values), 3), round(statistics.stdev(values), 3) if len(values) > 1 else None]
            for steps, values in ratios.items()
        },
        "distances": seeds,
    }


if __name__ == "__main__":
    main()
