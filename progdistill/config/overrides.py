"""Recorded evaluation settings with what a user changes: files that are named anew count as they are now."""

from collections.abc import Mapping
from typing import Any

from progdistill.errors import UsageError
from progdistill.features.weights import INCEPTION_SHA256, local_path, sha256_of

FILES = ("weights", "reference_statistics")


def changed(recorded: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`recorded` with `changes`, less what it says of files that the changes replace.

    A file that is named loses its recorded digest. Another evaluator loses the files themselves: they are
    another network's, and statistics of another network's features. What a change gives stays.
    """
    outdated = {f"{name}_sha256" for name in FILES if name in changes}
    if "evaluator" in changes and changes["evaluator"] != recorded.get("evaluator"):
        outdated |= {*FILES, *(f"{name}_sha256" for name in FILES)}
    return {name: value for name, value in recorded.items() if name not in outdated} | dict(changes)


def check_named_files(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Raise UsageError where a change names a file of this machine that has not the expected digest.

    A store that has the expected one would otherwise answer with that, and the named file be ignored.
    """
    official = INCEPTION_SHA256 if fields.get("evaluator") == "inception" else None
    for name, default in zip(FILES, (official, None), strict=True):
        location, expected = changes.get(name), fields.get(f"{name}_sha256") or default
        path = local_path(location) if isinstance(location, str) else None
        if path is None or expected is None or not path.is_file():
            continue
        found = sha256_of(path)
        if found != expected:
            option = ", or --inception-sha256 in `evaluate`" if name == "weights" else ""
            raise UsageError(
                f"evaluation.{name} = {location} has SHA-256 {found}, but {expected} is expected: name the"
                f" file that is meant, or state this one's digest (evaluation.{name}_sha256{option})"
            )
