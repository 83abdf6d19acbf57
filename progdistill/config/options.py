"""The options of a run, from which argparse, Metaflow's parameters, TOML files and deployments derive."""

import argparse
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field

from progdistill.config.overrides import Override, overrides_of, read_override
from progdistill.errors import UsageError
from progdistill.models_base import Frozen, parse_toml

DEFAULTS_FILE = "progdistill.toml"
DEFAULT_STORE = ".progdistill/store"
PRICES_TABLE = "prices"
"""A table of `progdistill.toml` that is not an option (see `run/estimate.py`)."""

RENAMED_OPTIONS = {"like": "reproduce", "guidance": "guidance-scale, which is 1 more (0 is now 1, 0:4 is now 1:5)"}
"""Former names of options of any command, and what to use instead."""


class RunOptions(Frozen):
    """The options of one run; None where the user gave none."""

    dataset: str | None = Field(None, description="dataset name, folder or URI (default: digits, or that of --from)")
    ladder: str | None = Field(
        None, description="sampling steps, teacher to last student: START:END[:FACTOR] or a list (default: preset)"
    )
    target_steps: int | None = Field(
        None, description="stop distilling at this many sampling steps (default: the ladder's end)"
    )
    start_from: str | None = Field(
        None, description="start from this checkpoint: id, unique prefix, alias, or DistillFlow/RUN/STEPS"
    )
    reproduce: str | None = Field(None, description="re-run with the settings of this checkpoint's run")
    preset: str | None = Field(None, description="settings to start from (default: the dataset's own)")
    store: str | None = Field(
        None, description=f"where checkpoints live: folder, s3://… or gs://… (default: {DEFAULT_STORE})"
    )
    launcher: str | None = Field(None, description="where jobs run: local or kubernetes (default: local)")
    seed: int | None = Field(None, description="seed of every random choice (default: 0)")
    base_updates: int | None = Field(None, description="parameter updates of the base model (default: preset)")
    updates_per_stage: int | None = Field(
        None, description="parameter updates of every distillation stage (default: preset)"
    )
    guidance_scale: str | None = Field(
        None, description="guidance scales that class-conditional students learn, LOWEST:HIGHEST such as 1:5; 1 is none"
    )
    track: str | None = Field(
        None, description="log to these trackers, too: tensorboard, wandb, mlflow, separated by commas (default: none)"
    )
    set: tuple[Annotated[Override, BeforeValidator(read_override)], ...] = Field(
        (), description="KEY.PATH=VALUE sets any field of the configuration; may be repeated"
    )
    defaults: frozenset[str] = frozenset()
    """Fields whose value comes from `progdistill.toml`; the only field that is not an option."""


class RunOption(NamedTuple):
    """One option of `run`, `plan`, `progdistill.toml` and deployments."""

    field: str
    """The field of `RunOptions`."""
    type: type
    help: str
    repeatable: bool

    @property
    def name(self) -> str:
        """What users write: `--NAME`, or `NAME = …` in TOML. (`from` cannot be a field of Python.)"""
        return "from" if self.field == "start_from" else self.parameter

    @property
    def parameter(self) -> str:
        """The name of the flow's Metaflow parameter."""
        return self.field.replace("_", "-")


def options_of(model: type[RunOptions]) -> tuple[RunOption, ...]:
    """The options that a model declares: its fields with a description."""
    return tuple(
        RunOption(name, int if field.annotation == int | None else str, field.description, name in ("set", "over"))
        for name, field in model.model_fields.items()
        if field.description is not None
    )


RUN_OPTIONS = options_of(RunOptions)

METAVARS = {
    **{"ladder": "START:END", "start_from": "REF", "reproduce": "REF", "store": "URI", "track": "NAMES"},
    **{"guidance_scale": "LOWEST:HIGHEST", "set": "KEY=VALUE", "over": "KEY=VALUE,VALUE"},
}
"""What stands for the values of options in help."""


def add_run_options(parser: argparse.ArgumentParser, options: Iterable[RunOption] = RUN_OPTIONS) -> None:
    """Add options, by default every run option, to an argparse parser."""
    for option in options:
        parser.add_argument(
            *dict.fromkeys((f"--{option.name}", f"--{option.parameter}")),
            dest=option.field,
            type=option.type,
            help=option.help,
            metavar="N" if option.type is int else METAVARS.get(option.field, "NAME"),
            action="append" if option.repeatable else "store",
        )


def check_arguments(arguments: Iterable[str]) -> None:
    """Raise UsageError for a command-line option that has another name now, and for text that is not UTF-8."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{argument!r} is not UTF-8: give the file or folder another name") from None
        name = argument.partition("=")[0].removeprefix("--")
        if argument.startswith("--") and name in RENAMED_OPTIONS:
            raise UsageError(f"--{name} was renamed: use --{RENAMED_OPTIONS[name]}")


def resolve_options(typed: Mapping[str, Any]) -> RunOptions:
    """Complete typed options with those of the environment and of `progdistill.toml`.

    With a typed `reproduce` the file adds only where the run works (store, launcher, trackers, cluster).

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
    table = read_defaults_file(Path(DEFAULTS_FILE))
    table.pop(PRICES_TABLE, None)
    defaults = options_of_table(table, DEFAULTS_FILE)
    if "reproduce" in given:
        defaults = {name: value for name, value in defaults.items() if name in ("store", "launcher", "track", "set")}
        defaults["set"] = [item for item in defaults.get("set", ()) if item.section == "cluster"]
    # Overrides add up; the typed ones come last and win.
    given["set"] = (*defaults.get("set", ()), *given.get("set", ()))
    variables = {"store": "PROGDISTILL_STORE", "launcher": "PROGDISTILL_LAUNCHER"}
    given = {field: os.environ[name] for field, name in variables.items() if os.environ.get(name)} | given
    return RunOptions(**defaults | given, defaults=frozenset(defaults.keys() - given.keys()))


def as_arguments(typed: Mapping[str, Any], options: Iterable[RunOption] = RUN_OPTIONS) -> list[str]:
    """The command line of typed options: values by field, None where not given."""
    arguments: list[str] = []
    for option in options:
        value = typed.get(option.field)
        for item in (value or ()) if option.repeatable else () if value is None else (value,):
            arguments += [f"--{option.parameter}", str(item)]
    return arguments


def parse_known_options(
    add_options: Callable[[argparse.ArgumentParser], None], arguments: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Parse options among those of another program; UsageError when a value is not of its option's type.

    Returns:
        The values by field, and the arguments that are not among the options that `add_options` adds.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    add_options(parser)
    try:
        namespace, rest = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UsageError(f"{error}; see --help") from None
    return vars(namespace), rest


def _refuse_blank(value: Any, where: str) -> None:
    if isinstance(value, str) and not value.strip():
        raise UsageError(f"{where} is empty: give it a value, or leave it out")
    if isinstance(value, str) and "\0" in value:
        raise UsageError(f"{where} = {value!r} has a null character, which no name has")


def read_defaults_file(path: Path) -> dict[str, Any]:
    """The content of a `progdistill.toml`, empty where there is none; UsageError if it cannot be read."""
    if not path.exists():
        return {}
    try:
        return parse_toml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from None


def options_of_table(
    table: Mapping[str, Any], where: str, options: Iterable[RunOption] = RUN_OPTIONS
) -> dict[str, Any]:
    """Options written in TOML or JSON, by field; UsageError names the bad key in `where`."""
    known, found = {option.name: option for option in options}, dict[str, Any]()
    for name, value in table.items():
        if name in RENAMED_OPTIONS:
            raise UsageError(f"{where}: {name} was renamed: use {RENAMED_OPTIONS[name]}")
        if name not in known:
            raise UsageError(f"{where}: unknown option {name!r}; valid options: {', '.join(sorted(known))}")
        option = known[name]
        if option.repeatable:
            found[option.field] = overrides_of(value, f"{where}: [{name}]")
            continue
        if type(value) is not option.type:  # isinstance would accept true as the number 1
            raise UsageError(f"{where}: {name} = {value!r} is not of type {option.type.__name__}")
        _refuse_blank(value, f"{where}: {name}")
        found[option.field] = value
    return found
