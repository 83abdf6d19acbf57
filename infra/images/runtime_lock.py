"""Prints the packages of an image: a part of requirements.lock, with its hashes.

    python runtime_lock.py requirements.lock not_in_images.txt [cuda.txt]   all but the packages they list
    python runtime_lock.py requirements.lock --only setuptools              only those packages

Nothing is resolved again; `pip install --require-hashes` refuses a result that lacks a dependency.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path


def entries(lock: str) -> Iterator[tuple[str, str]]:
    """Each package's normalized name with its lines: the requirement and its hashes."""
    for entry in re.findall(r"^[A-Za-z0-9].*(?:\n[ \t].*)*", lock, re.MULTILINE):
        yield normalized(re.split(r"[=\[ ;]", entry, maxsplit=1)[0]), entry


def normalized(name: str) -> str:
    """The name of a package as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def names_in(text: str) -> set[str]:
    """The names that a file lists, one per line; `#` starts a comment."""
    return {normalized(line) for line in text.splitlines() if line.strip() and not line.startswith("#")}


def part_of(lock: str, *, without: set[str] | None = None, only: set[str] | None = None) -> str:
    """The entries of the lock file without `without`, and only `only` if it is given."""
    kept = [entry for name, entry in entries(lock) if name not in (without or set()) and (only is None or name in only)]
    return "\n".join(kept) + "\n"


def main() -> None:
    """Print the part that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lock", type=Path)
    parser.add_argument("without", type=Path, nargs="*")
    parser.add_argument("--only", action="append")
    args = parser.parse_args()
    omissions = set[str]().union(*(names_in(path.read_text()) for path in args.without))
    only = None if args.only is None else {normalized(name) for name in args.only}
    print(part_of(args.lock.read_text(), without=omissions, only=only), end="")


if __name__ == "__main__":
    main()
