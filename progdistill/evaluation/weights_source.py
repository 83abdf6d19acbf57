"""Files that somebody else made (networks, statistics): named on purpose, never downloaded by surprise."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from progdistill.artifacts.store import open_store
from progdistill.errors import LostInvariantError, UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.requirements import FEATURES_ADVICE, FEATURES_VARIABLE, location_of, named_file


@contextmanager
def given_file(location: str | None, variable: str, advice: str) -> Iterator[Path]:
    """The file that the settings name, else the environment variable: a path, `file://` or `s3://`.

    Raises UsageError with `advice` where none is named or none is there.
    """
    named = named_file(location, variable, advice)
    if "://" in named:
        with tempfile.TemporaryDirectory() as folder:
            yield _fetched(named, Path(folder))
    else:
        yield Path(named)


def pinned(settings: EvaluationSettings) -> EvaluationSettings:
    """Settings that say by name and digest which features file is meant: it is needed only once a store.

    The name tells the format. Where a digest is stated, no file need be there: the store may have it.
    """
    if settings.evaluator != "features_file":
        return settings
    if settings.weights_sha256 is not None:
        return settings.model_copy(update={"weights": location_of(settings.weights, FEATURES_VARIABLE)})
    with given_file(settings.weights, FEATURES_VARIABLE, FEATURES_ADVICE) as path:
        named = named_file(settings.weights, FEATURES_VARIABLE, FEATURES_ADVICE)
        return settings.model_copy(update={"weights": named, "weights_sha256": sha256_of(path)})


def check_digest(path: Path, expected: str) -> None:
    """Raise LostInvariantError unless the file's SHA-256 is the expected one, before anyone parses it."""
    found = sha256_of(path)
    if found != expected:
        raise LostInvariantError(
            f"{path} has SHA-256 {found}, expected {expected}: fetch it again, or state another digest with"
            " --set evaluation.weights_sha256=…"
        )


def sha256_of(path: Path) -> str:
    """The plain SHA-256 of a file in lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetched(location: str, folder: Path) -> Path:
    parent, _, name = location.rpartition("/")
    data = open_store(parent).read(name)
    if data is None:
        raise UsageError(f"there is no {location}")
    path = folder / name
    path.write_bytes(data)
    return path
