"""The options of a run, from which argparse, Metaflow's parameters, TOML files and deployments derive."""

import argparse
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator

from progdistill.config.overrides import Override, overrides_of, read_override
from progdistill.errors import UsageError
from progdistill.models_base import Frozen

DEFAULTS_FILE = "progdistill.toml"
DEFAULT_STORE = ".progdistill/store"
PRICES_TABLE = "prices"
"""A table of `progdistill.toml` that is not an option (see `run/estimate.py`)."""

RENAMED_OPTIONS = {"like": "reproduce", "guidance": "guidance-scale, which is 1 more (0 is now 1, 0:4 is now 1:5)"}
"""Former names of options of any command, and what to use instead."""


class RunOption(NamedTuple):
    """One option of `run`, `plan`, `progdistill.toml` and deployments."""

    name: str
    """What users write: `--NAME`, or `NAME = …` in TOML."""
    type: type
    help: str
    repeatable: bool = False

    @property
    def field(self) -> str:
        """The field of `RunOptions`; `from` is a keyword of Python."""
        return "start_from" if self.name == "from" else self.name.replace("-", "_")

    @property
    def parameter(self) -> str:
        """The name of the flow's Metaflow parameter."""
        return self.field.replace("_", "-")


RUN_OPTIONS = (
    RunOption("dataset", str, "dataset name, folder or URI (default: digits, or the dataset of --from)"),
    RunOption(
        "ladder", str, "sampling steps from teacher to last student, START:END[:FACTOR] or a list (default: preset)"
    ),
    RunOption("target-steps", int, "stop distilling at this many sampling steps (default: the ladder's end)"),
    RunOption("from", str, "start from this checkpoint: id, unique prefix, alias, or DistillFlow/RUN/STEPS"),
    RunOption("reproduce", str, "re-run with the settings of this checkpoint's run"),
    RunOption("preset", str, "settings to start from (default: the dataset's own)"),
    RunOption("store", str, f"where checkpoints live: folder or s3://bucket/prefix (default: {DEFAULT_STORE})"),
    RunOption("launcher", str, "where jobs run: local or kubernetes (default: local)"),
    RunOption("seed", int, "seed of every random choice (default: 0)"),
    RunOption("base-updates", int, "parameter updates of the base model (default: preset)"),
    RunOption("updates-per-stage", int, "parameter updates of every distillation stage (default: preset)"),
    RunOption(
        "guidance-scale",
        str,
        "guidance scales that class-conditional students learn, LOWEST:HIGHEST such as 1:5; 1 is no guidance",
    ),
    RunOption("set", str, "KEY.PATH=VALUE sets any field of the configuration; may be repeated", True),
)


class RunOptions(Frozen):
    """The options of one run; None where the user gave none."""

    dataset: str | None = None
    ladder: str | None = None
    target_steps: int | None = None
    start_from: str | None = None
    reproduce: str | None = None
    preset: str | None = None
    store: str | None = None
    launcher: str | None = None
    seed: int | None = None
    base_updates: int | None = None
    updates_per_stage: int | None = None
    guidance_scale: str | None = None
    set: tuple[Annotated[Override, BeforeValidator(read_override)], ...] = ()
    defaults: frozenset[str] = frozenset()
    """Fields whose value comes from `progdistill.toml`."""


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add every run option to an argparse parser."""
    for option in RUN_OPTIONS:
        parser.add_argument(
            *dict.fromkeys((f"--{option.name}", f"--{option.parameter}")),
            dest=option.field,
            type=option.type,
            help=option.help,
            metavar="KEY=VALUE" if option.repeatable else option.name.upper().replace("-", "_"),
            action="append" if option.repeatable else "store",
        )


def refuse_renamed(arguments: Iterable[str]) -> None:
    """Raise UsageError for a command-line option that has another name now."""
    for argument in arguments:
        name = argument.partition("=")[0].removeprefix("--")
        if argument.startswith("--") and name in RENAMED_OPTIONS:
            raise UsageError(f"--{name} was renamed: use --{RENAMED_OPTIONS[name]}")


def option_named(name: str, where: str) -> RunOption:
    """The run option that a file names; UsageError if there is none."""
    known = {option.name: option for option in RUN_OPTIONS}
    if name in RENAMED_OPTIONS:
        raise UsageError(f"{where}: {name} was renamed: use {RENAMED_OPTIONS[name]}")
    if name not in known:
        raise UsageError(f"{where}: unknown option {name!r}; valid options: {', '.join(sorted(known))}")
    return known[name]


def resolve_options(typed: Mapping[str, Any]) -> RunOptions:
    """Complete typed options with those of the environment and of `progdistill.toml`.

    With a typed `reproduce` the file adds only where the run works (store, launcher, cluster).

    Args:
        typed: values by field of RunOptions, as argparse or Metaflow give them; None or empty: not given.

    Raises:
        UsageError: for a blank value (in a script, a variable that is not set), and for a bad file.
    """
    given: dict[str, Any] = {}
    for option in RUN_OPTIONS:
        value = typed.get(option.field)
        _refuse_blank(value, f"--{option.name}")
        if value not in (None, (), []):
            given[option.field] = value
    defaults = read_defaults_file(Path(DEFAULTS_FILE))
    defaults.pop(PRICES_TABLE, None)
    defaults = options_of_table(defaults, DEFAULTS_FILE)
    if "reproduce" in given:
        defaults = {name: value for name, value in defaults.items() if name in ("store", "launcher", "set")}
        defaults["set"] = [item for item in defaults.get("set", ()) if item.section == "cluster"]
    # Overrides add up; the typed ones come last and win.
    given["set"] = (*defaults.get("set", ()), *given.get("set", ()))
    given = {**_environment_defaults(), **given}
    return RunOptions(**{**defaults, **given}, defaults=frozenset(defaults.keys() - given.keys()))


def as_arguments(typed: Mapping[str, Any]) -> list[str]:
    """The command line of typed options: values by field of RunOptions, None where not given."""
    words: list[str] = []
    for option in RUN_OPTIONS:
        value = typed.get(option.field)
        values = (value or ()) if option.repeatable else [value] if value is not None else []
        for item in values:
            words += [f"--{option.parameter}", str(item)]
    return words


def parse_known_options(
    add_options: Callable[[argparse.ArgumentParser], None], arguments: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Parse options among those of another program; UsageError when a value is not of its option's type.

    Returns:
        The values by field, and the arguments that are not among the options that `add_options` adds.
    """
    parser = _RaisingParser(add_help=False, allow_abbrev=False)
    add_options(parser)
    namespace, rest = parser.parse_known_args(list(arguments))
    return vars(namespace), rest


class _RaisingParser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UsageError(f"{message}; see --help")


def _environment_defaults() -> dict[str, Any]:
    names = {"store": "PROGDISTILL_STORE", "launcher": "PROGDISTILL_LAUNCHER"}
    return {field: os.environ[name] for field, name in names.items() if os.environ.get(name)}


def _refuse_blank(value: Any, where: str) -> None:
    if isinstance(value, str) and not value.strip():
        raise UsageError(f"{where} is empty: give it a value, or leave it out")


def read_defaults_file(path: Path) -> dict[str, Any]:
    """The content of a `progdistill.toml`, empty where there is none; UsageError if it cannot be read."""
    if not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None


def options_of_table(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Options written in TOML or JSON, by field of RunOptions; UsageError names the bad key in `where`."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        option = option_named(name, where)
        if option.repeatable:
            found[option.field] = overrides_of(value, f"{where}: [{name}]")
            continue
        if type(value) is not option.type:  # isinstance would accept true as the number 1
            raise UsageError(f"{where}: {name} = {value!r} is not of type {option.type.__name__}")
        _refuse_blank(value, f"{where}: {name}")
        found[option.field] = value
    return found
