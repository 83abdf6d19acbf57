"""Mutates every foreign input for a while, and keeps what crashes: `python -m tests.fuzz --seconds 3600`."""

import argparse
import atexit
import hashlib
import itertools
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.fuzz.run import Worker, copy_of
from tests.fuzz.targets import TARGETS, mutated

CASES = Path(__file__).with_name("cases")
IN_A_ROW = 20
"""Inputs of a target before the next target's turn."""


def main() -> int:
    """Fuzz; return 1 if something crashed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other mutations (default: 0)")
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each target")
    parser.add_argument("--target", action="append", choices=TARGETS, help="repeatable (default: all)")
    parser.add_argument("--cases", type=Path, default=CASES, help="where crashes are kept (default: %(default)s)")
    args = parser.parse_args()
    tried, found, seen = Counter[str](), Counter[str](), set[str]()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place, Worker(Path(place)) as worker:
        names = args.target or list(TARGETS)
        for name in names:
            _made(name, Path(place))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(bool(found))))
        atexit.register(_print, tried, found)
        until = time.monotonic() + args.seconds
        for start in itertools.count(args.first, IN_A_ROW):
            for name, index in itertools.product(names, range(start, start + IN_A_ROW)):
                if time.monotonic() > until:
                    return int(bool(found))
                folder = copy_of(_made(name, Path(place)), Path(place) / "input")
                mutated(TARGETS[name], folder, Random(f"{args.seed} {name} {index}"))
                changes = _changes(folder, _made(name, Path(place)), Path(place) / "changes")
                tried[name] += 1
                problem = worker.problem(name, folder)
                if problem is not None:
                    found[name] += 1
                    signature = _signature(problem)
                    if signature not in seen:  # one case for each place in the code
                        seen.add(signature)
                        kept = _keep(changes, args.cases / name)
                        print(f"{name} {index}, kept in {kept}:\n{problem[-3000:]}\n==> {signature}", flush=True)
    return 0


def _made(name: str, place: Path) -> Path:
    """The unharmed input of a target, made once."""
    seeds = place / "seeds" / name
    if not seeds.exists():
        seeds.mkdir(parents=True)
        TARGETS[name].make(seeds)
    return seeds


def _changes(folder: Path, seeds: Path, out: Path) -> Path:
    """The files of a folder that are not the unharmed ones."""
    shutil.rmtree(out, ignore_errors=True)
    for path in (path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        if not (seeds / name).is_file() or (seeds / name).read_bytes() != path.read_bytes():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, out / name)
    return out


def _keep(changes: Path, cases: Path) -> Path:
    """Keep a case under a name that its content gives."""
    digest = hashlib.sha256()
    for path in sorted(path for path in changes.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(changes)).encode() + path.read_bytes())
    kept = cases / digest.hexdigest()[:12]
    if not kept.exists():
        shutil.copytree(changes, kept)
    return kept


def _signature(problem: str) -> str:
    """Where and how the product failed, without what differs from input to input."""
    places = re.findall(r'File ".*?(progdistill/\S+)", line \d+, in (\w+)', problem)
    kind = re.split(r"[\s:]", problem.strip().splitlines()[-1])[0]
    return f"{' '.join(places[-1]) if places else problem.splitlines()[0]} {kind}"


def _print(tried: Counter[str], found: Counter[str]) -> None:
    for name in tried:
        print(f"{name:<16}{tried[name]:>8,} inputs{found[name]:>6,} crashes")
    print(f"{'all':<16}{tried.total():>8,} inputs{found.total():>6,} crashes")


if __name__ == "__main__":
    sys.exit(main())
