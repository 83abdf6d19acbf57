"""Overrides of settings: `--set KEY.PATH=VALUE`, and evaluation settings whose files change with them."""

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, JsonValue

from progdistill.errors import UsageError
from progdistill.features.weights import FEATURES_VARIABLE, INCEPTION_SHA256, INCEPTION_VARIABLE, local_path, sha256_of
from progdistill.models_base import leaves, parse_json

FORMER_SETTINGS = {
    "compute.ranks": "renamed: use compute.world_size",
    "evaluation.guidance": "renamed: use evaluation.guidance_scale, which is 1 more (0 is now 1)",
    "cluster.max_gang_restarts": "renamed: use cluster.backoff_limit",
    "cluster.api_patience_seconds": "renamed: use cluster.api_timeout_seconds",
    "cluster.image_pull_patience_seconds": "renamed: use cluster.image_pull_timeout_seconds",
    "cluster.use_jobset": "removed: ranks restart in their own pod without it",
}
"""Paths that settings had before, and what became of them."""

NETWORKS = {"inception": INCEPTION_VARIABLE, "features_file": FEATURES_VARIABLE}
"""Evaluators whose network comes from a file, and the environment variable that can name it."""

FILES = ("weights", "reference_statistics")
"""Evaluation settings that name a file, whose digest is NAME_sha256."""


class Override(NamedTuple):
    """A setting's path and its new value; a table for a section sets only what it names."""

    path: str
    value: JsonValue

    @property
    def section(self) -> str:
        """The first part of the path."""
        return self.path.partition(".")[0]

    def __str__(self) -> str:
        """As `--set` takes it, without spaces of its own."""
        text = self.value if isinstance(self.value, str) else json.dumps(self.value, separators=(",", ":"))
        return f"{self.path}={text}"


def read_override(given: object) -> object:
    """Parse the text of a `--set`; what is not a text stays as it is.

    The value is JSON, else a string. Raises UsageError where it is missing.
    """
    if not isinstance(given, str):
        return given
    path, _, text = given.partition("=")
    if not text.strip():
        raise UsageError(f"--set {given!r} has no value: write --set KEY.PATH=VALUE")
    try:
        value = parse_json(text)
    except json.JSONDecodeError:
        value = text
    except ValueError as error:
        raise UsageError(f"--set {path}: the value cannot be used: {error}") from None
    return Override(path.strip(), value)


def overrides_of(table: object, where: str) -> list[Override]:
    """The overrides in a `[set]` table of TOML or JSON, whose keys are paths."""
    if not isinstance(table, dict):
        raise UsageError(f"{where} must be a table of settings' paths and values")
    for path, value in table.items():
        try:
            json.dumps(value)
        except TypeError:
            raise UsageError(f"{where} {path}: dates and times are values of no setting") from None
    return [Override(path, value) for path, value in table.items()]


def set_field(fields: dict[str, Any], override: Override, model: type[BaseModel]) -> None:
    """Set one field of nested settings in place.

    Args:
        fields: JSON values of a `model`.
        override: path and value; UsageError for an unknown setting.
        model: defines which tables are sections, whose other fields stay.
    """
    path, value = override
    *parents, leaf = path.split(".")
    place: Any = fields
    for part in parents:
        place = place.get(part) if isinstance(place, dict) else None
    if not isinstance(place, dict) or leaf not in place:
        if path in FORMER_SETTINGS:
            raise UsageError(f"--set {path} was {FORMER_SETTINGS[path]}")
        near = difflib.get_close_matches(path, [known for known, _ in leaves(fields)], n=1, cutoff=0.0)
        raise UsageError(f"--set {path}: unknown setting; did you mean {near[0]}?")
    if isinstance(value, dict) and _is_section(path, model):
        for name, inner in value.items():
            set_field(fields, Override(f"{path}.{name}", inner), model)
    else:
        place[leaf] = value


def _is_section(path: str, model: Any) -> bool:
    for part in path.split("."):
        fields = getattr(model, "model_fields", {})
        model = fields[part].annotation if part in fields else None
    return hasattr(model, "model_fields")


def overridden(overrides: Iterable[Override], section: str) -> set[str]:
    """The fields of a section that overrides set."""
    found: set[str] = set()
    for path, value in overrides:
        first, *names = path.split(".")
        if first == section:
            found.update(names[:1] if names else value if isinstance(value, dict) else ())
    return found


def apply_overrides(recorded: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded evaluation settings with `changes`.

    A changed file loses its recorded digest; another evaluator loses the files, which belong to another network.
    """
    outdated = {f"{name}_sha256" for name in (*FILES, "clip_model") if name in changes}
    if "evaluator" in changes and changes["evaluator"] != recorded.get("evaluator"):
        outdated |= {*FILES, *(f"{name}_sha256" for name in FILES)}
    return {name: value for name, value in recorded.items() if name not in outdated} | dict(changes)


def check_named_files(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Raise UsageError where a change names a local file that does not have the expected digest.

    Otherwise a store that has a file of the expected digest would use that, and ignore the named one. The same for a
    network that nobody named now, but a record of the store does: it could run code of the writer of the record.
    """
    _refuse_recorded_network(fields, changes)
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
                f" right file, or give this one's digest (evaluation.{name}_sha256{option})"
            )


def _refuse_recorded_network(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    evaluator, recorded = fields.get("evaluator"), fields.get("weights_sha256")
    if evaluator == "inception" and recorded in (None, INCEPTION_SHA256):
        return
    if evaluator not in NETWORKS or not {"weights", "weights_sha256"}.isdisjoint(changes):
        return
    own = os.environ.get(NETWORKS[evaluator])
    path = None if own is None else local_path(own)
    if path is not None and path.is_file() and recorded in (None, sha256_of(path)):
        return
    if recorded is not None or fields.get("weights") is not None:
        raise UsageError(
            f"the recorded evaluation uses {evaluator} with the network {fields.get('weights')} of SHA-256 {recorded},"
            f" which can run code: name the file in {NETWORKS[evaluator]}, or, if you trust it, give the digest with"
            " --set evaluation.weights_sha256=… in a run, --weights-sha256 … in `evaluate`"
        )
