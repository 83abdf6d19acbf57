"""Runs lose random processes at random moments: `python -m tests.storm --rounds 100`."""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from progdistill.cli.main import main as progdistill
from tests.storm.round import Failure, Place, Round, Undisturbed, disturb, undisturbed


def main() -> int:
    """Do the rounds; return 1 if a rule did not hold in one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="rounds at a time (default: %(default)s)")
    args = parser.parse_args()
    began, outcomes = time.monotonic(), Counter[str]()
    folder = Path(tempfile.mkdtemp(prefix="storm-"))
    expected = {}
    for world_size in (1, 2):
        place = Place(folder / f"whole{world_size}", world_size)
        expected[world_size] = undisturbed(place)
    template = _template(folder / "whole1", folder / "template")

    def one(number: int) -> str:
        round = Round.numbered(number, args.seed)
        return _report(round, folder, template, expected[round.world_size])

    with ThreadPoolExecutor(args.jobs) as pool:
        for outcome in pool.map(one, range(args.first, args.first + args.rounds)):
            outcomes[outcome] += 1
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:>4}  {outcome}")
    failed = sum(count for outcome, count in outcomes.items() if outcome.startswith("FAILED"))
    print(f"{args.rounds} rounds, {failed} failed, in {(time.monotonic() - began) / 60:.1f} minutes")
    if failed:
        print(f"their folders are in {folder}")
    else:
        shutil.rmtree(folder)
    return int(failed > 0)


def _report(round: Round, folder: Path, template: Path, expected: Undisturbed) -> str:
    began, place = time.monotonic(), Place(folder / f"round{round.number}", round.world_size, template)
    what = f"{round.signal.name} in {round.step}"
    try:
        outcome = disturb(round, place, expected)
        shutil.rmtree(place.folder)
    except Failure as failure:
        outcome = f"FAILED: {failure}"
    print(
        f"round {round.number}, {round.world_size} rank{'s' * (round.world_size > 1)}, {what}: {outcome}"
        f" ({time.monotonic() - began:.0f} s)",
        flush=True,
    )
    return f"FAILED {what}" if outcome.startswith("FAILED") else f"{what}, {outcome}"


def _template(whole: Path, out: Path) -> Path:
    """The dataset, and a store with the evaluator alone: both take longer to make than a round."""
    shutil.copytree(whole / ".progdistill", out)
    store = out / "store"
    for kind in ("checkpoints", "evaluations", "jobs", "runs", "reports", "aliases", "evaluation_neighbors"):
        shutil.rmtree(store / kind, ignore_errors=True)
    progdistill(["checkpoints", "gc", "--delete", "--grace-days", "0", "--store", str(store)])
    return out


if __name__ == "__main__":
    sys.exit(main())
