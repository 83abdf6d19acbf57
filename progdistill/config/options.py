"""What a user can type after `run` and `progdistill plan`: declared once, parsed alike everywhere."""

import argparse
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from progdistill.errors import UsageError
from progdistill.models_base import Frozen

DEFAULTS_FILE = "progdistill.toml"
DEFAULT_STORE = ".progdistill/store"
PRICES_TABLE = "prices"
"""A table of that file that is no option: see `planning/prices.py`."""


class RunOption(NamedTuple):
    """One option: its name without dashes, its type, its help, and whether it may repeat."""

    name: str
    type: type
    help: str
    repeatable: bool = False


RUN_OPTIONS = (
    RunOption("dataset", str, "dataset name, folder or URI (default: digits, or the dataset of --from)"),
    RunOption(
        "ladder",
        str,
        "sampling steps from teacher to last student, START:END[:FACTOR] or a list (default: preset)",
    ),
    RunOption("target-steps", int, "stop distilling at this many sampling steps (default: the ladder's end)"),
    RunOption("from", str, "start from this checkpoint: id, unique prefix, alias, or DistillFlow/RUN/STEPS"),
    RunOption("like", str, "the dataset and every setting of the run that made this checkpoint, done anew"),
    RunOption("preset", str, "settings to start from (default: the dataset's own)"),
    RunOption(
        "store", str, "where checkpoints live: folder or s3://bucket/prefix (default: .progdistill/store)"
    ),
    RunOption("launcher", str, "where jobs run: local or kubernetes (default: local)"),
    RunOption("seed", int, "seed of every random choice (default: 0)"),
    RunOption("base-updates", int, "parameter updates of the base model (default: preset)"),
    RunOption("updates-per-stage", int, "parameter updates of every distillation stage (default: preset)"),
    RunOption(
        "guidance",
        str,
        "weights that class-conditional students learn to be guided with, LOWEST:HIGHEST such as 0:4",
    ),
    RunOption("set", str, "KEY.PATH=VALUE reaches any field of the configuration; may be given again", True),
)


class RunOptions(Frozen):
    """The options of one run as typed; None where the user said nothing."""

    dataset: str | None = None
    ladder: str | None = None
    target_steps: int | None = None
    from_: str | None = None
    like: str | None = None
    preset: str | None = None
    store: str | None = None
    launcher: str | None = None
    seed: int | None = None
    base_updates: int | None = None
    updates_per_stage: int | None = None
    guidance: str | None = None
    set: tuple[str, ...] = ()
    defaults: frozenset[str] = frozenset()
    """Fields that nobody typed: they come from `progdistill.toml`."""


def field_name(option_name: str) -> str:
    """The RunOptions field of an option: dashes become underscores, and `from` is a Python keyword."""
    return "from_" if option_name == "from" else option_name.replace("-", "_")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add every run option to an argparse parser."""
    for option in RUN_OPTIONS:
        parser.add_argument(
            f"--{option.name}",
            dest=field_name(option.name),
            type=option.type,
            help=option.help,
            metavar="KEY=VALUE" if option.repeatable else option.name.upper().replace("-", "_"),
            action="append" if option.repeatable else "store",
        )


def options_from_namespace(values: Mapping[str, Any]) -> RunOptions:
    """Collect parsed values (None: not given); fill gaps from the environment and `progdistill.toml`.

    To a `like` that was typed the file adds nothing but where runs work: all else is as it was.

    Raises UsageError for an empty text: in a script that is a variable without a value, which must not start
    a run with defaults.
    """
    typed = {}
    for option in RUN_OPTIONS:
        value = values.get(field_name(option.name))
        _refuse_empty(value, f"--{option.name}")
        if value not in (None, (), []):
            typed[field_name(option.name)] = value
    defaults = _file_defaults(Path(DEFAULTS_FILE))
    if "like" in typed:
        defaults = _of_place(defaults)
    # Assignments add up, in an order in which what was typed comes last and wins.
    typed["set"] = (*defaults.get("set", ()), *typed.get("set", ()))
    decided = {**_environment_defaults(), **typed}
    return RunOptions(**{**defaults, **decided}, defaults=frozenset(defaults.keys() - decided.keys()))


def _of_place(defaults: dict[str, Any]) -> dict[str, Any]:
    """Those of a file's defaults that say where runs work and keep their results."""
    place = {name: value for name, value in defaults.items() if name in ("store", "launcher")}
    of_cluster = (one for one in defaults.get("set", ()) if one.startswith("cluster"))
    return {**place, "set": tuple(of_cluster)}


def assignments(table: Mapping[str, Any]) -> tuple[str, ...]:
    """Write a table of configuration paths as what `--set` takes, each without a space of its own.

    Raises TypeError for a value that JSON does not know, such as a date.
    """
    texts = {k: v if isinstance(v, str) else json.dumps(v, separators=(",", ":")) for k, v in table.items()}
    return tuple(f"{key}={text}" for key, text in texts.items())


def parse_run_options(arguments: Sequence[str]) -> RunOptions:
    """Read the run options out of a command line that may hold others' options too; those are left alone.

    Raises UsageError when an option's text is not of its type.
    """
    parser = _RaisingParser(add_help=False, allow_abbrev=False)
    add_run_options(parser)
    namespace, _ = parser.parse_known_args(list(arguments))
    return options_from_namespace(vars(namespace))


class _RaisingParser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UsageError(f"{message}; see --help")


def _environment_defaults() -> dict[str, Any]:
    names = {"store": "PROGDISTILL_STORE", "launcher": "PROGDISTILL_LAUNCHER"}
    return {field: os.environ[name] for field, name in names.items() if os.environ.get(name)}


def _refuse_empty(value: Any, where: str) -> None:
    if isinstance(value, str) and not value.strip():
        raise UsageError(f"{where} is empty: give it a value, or leave it out")


def read_defaults_file(path: Path) -> dict[str, Any]:
    """What stands in a `progdistill.toml`, nothing where there is none; UsageError if it cannot be read."""
    if not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None


def _file_defaults(path: Path) -> dict[str, Any]:
    """Defaults of a `progdistill.toml`: option names as keys, and a table `[set]` of configuration paths."""
    table = read_defaults_file(path)
    known = {option.name: option for option in RUN_OPTIONS}
    defaults: dict[str, Any] = {}
    table.pop(PRICES_TABLE, None)
    for name, value in table.items():
        if name not in known:
            raise UsageError(
                f"{path} sets {name!r}, which is no option; known are {', '.join(sorted(known))}"
            )
        if name == "set":
            if not isinstance(value, dict):
                raise UsageError(f"{path}: `set` must be a table of configuration paths, such as [set]")
            value = _assignments_of_file(path, value)
        elif type(value) is not known[name].type:  # isinstance would take true for the number 1
            raise UsageError(f"{path}: {name} = {value!r} is not of type {known[name].type.__name__}")
        _refuse_empty(value, f"{path}: {name}")
        defaults[field_name(name)] = value
    return defaults


def _assignments_of_file(path: Path, table: Mapping[str, Any]) -> tuple[str, ...]:
    found: tuple[str, ...] = ()
    for key, value in table.items():
        try:
            found += assignments({key: value})
        except TypeError:
            raise UsageError(f"{path}: [set] {key}: dates and times are values of no setting") from None
    return found
