"""The options of a sweep, and the grid of settings that they span."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, JsonValue

from progdistill.config.options import RUN_OPTIONS, RunOptions, options_of, options_of_table, resolve_options
from progdistill.config.overrides import Override
from progdistill.errors import UsageError
from progdistill.models_base import parse_json

MAX_RUNS = 64
"""The default of `--max-runs`."""

OPTIONS_TO_VARY = (
    *("ladder", "target_steps", "start_from", "preset"),
    *("base_updates", "updates_per_stage", "guidance_scale"),
)
"""Options that `--over` can name, besides settings; all runs of a sweep share the others."""


class Axis(NamedTuple):
    """A setting, or an option, and the values that a sweep gives it."""

    path: str
    values: tuple[JsonValue, ...]

    def __str__(self) -> str:
        """As `--over` takes it, without spaces of its own."""
        return f"{self.path}={','.join(json.dumps(value, separators=(',', ':')) for value in self.values)}"


def read_axis(given: object) -> object:
    """Parse the text of an `--over`; what is not a text stays as it is.

    The values are JSON, separated by commas; where that is not JSON, each is JSON or else a string.

    Raises:
        UsageError: there is no value, or one stands twice.
    """
    if not isinstance(given, str):
        return given
    path, _, text = given.partition("=")
    path = path.strip()
    try:
        values = parse_json(f"[{text}]")
    except json.JSONDecodeError:
        values = [_value(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--over {path}: the values cannot be used: {error}") from None
    if not path or not values or "" in values:
        raise UsageError(f"--over {given!r} lacks a value: write --over KEY.PATH=VALUE,VALUE")
    for place, value in enumerate(values):
        if value in values[:place]:
            raise UsageError(f"--over {path} has the value {value!r} twice: leave one out")
    return Axis(path, tuple(values))


def _value(text: str) -> JsonValue:
    try:
        value: JsonValue = parse_json(text)
    except ValueError:
        return text.strip()
    return value


class SweepOptions(RunOptions):
    """The options of a sweep: those of its runs, and what differs between them."""

    over: tuple[Annotated[Axis, BeforeValidator(read_axis)], ...] = Field(
        (), description="KEY.PATH=VALUE,VALUE runs with each value of a setting, or of an option; may be repeated"
    )
    seeds: int | None = Field(None, description="runs of every setting, with seeds from --seed upward (default: 1)")
    max_runs: int | None = Field(None, description=f"most runs that a sweep may have (default: {MAX_RUNS})")


SWEEP_OPTIONS = options_of(SweepOptions)


class Point(NamedTuple):
    """One run of a sweep: what it has of its own, and all its options."""

    setting: dict[str, JsonValue]
    seed: int
    options: RunOptions


def resolve_sweep(typed: Mapping[str, Any]) -> SweepOptions:
    """Complete typed options as `resolve_options` does.

    Args:
        typed: values by field of SweepOptions; None or empty: not given.
    """
    own = {name: typed[name] for name in ("over", "seeds", "max_runs") if typed.get(name) not in (None, (), [])}
    return SweepOptions(**dict(resolve_options(typed)), **own)


def sweep_options_of_table(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Options of a deployment, by field of SweepOptions, with `over` as a table of lists; see `options_of_table`."""
    rest = dict(table)
    over = rest.pop("over", {})
    if not isinstance(over, dict) or not all(isinstance(values, list) and values for values in over.values()):
        raise UsageError(f"{where}: [over] must be a table of settings' paths and lists of values")
    found = options_of_table(rest, where, SWEEP_OPTIONS)
    return {**found, "over": [Axis(path, tuple(values)) for path, values in over.items()]}


def grid_of(options: SweepOptions) -> list[Point]:
    """Every setting of the grid with every seed, in the order of the axes.

    Raises:
        UsageError: the grid has a single run or too many, or an axis cannot be varied.
    """
    seeds, most = options.seeds or 1, options.max_runs or MAX_RUNS
    for name, value in (("--seeds", options.seeds), ("--max-runs", options.max_runs)):
        if value is not None and value < 1:
            raise UsageError(f"{name} {value}: give 1 or more")
    paths = [axis.path for axis in options.over]
    for place, path in enumerate(paths):
        if path in paths[:place]:
            raise UsageError(f"--over {path} is given twice: write all its values in one, separated by commas")
    count = seeds
    for axis in options.over:
        count *= len(axis.values)
    if count == 1:
        raise UsageError("a sweep of one run: give --over KEY.PATH=VALUE,VALUE or --seeds N, or use `run`")
    if count > most:
        sizes = " × ".join(str(len(axis.values)) for axis in options.over)
        raise UsageError(
            f"the sweep has {count} runs ({sizes or 1} settings × {seeds} seeds), more than --max-runs {most}:"
            " take fewer values or seeds, or raise --max-runs"
        )
    first = options.seed or 0
    plain = {name: value for name, value in options if name in RunOptions.model_fields}
    return [
        Point(dict(setting), first + index, _options_with(plain, setting, first + index))
        for setting in _settings(options.over)
        for index in range(seeds)
    ]


def _settings(axes: Sequence[Axis]) -> Iterator[list[tuple[str, JsonValue]]]:
    for values in product(*(axis.values for axis in axes)):
        yield [(axis.path, value) for axis, value in zip(axes, values, strict=True)]


def _options_with(plain: Mapping[str, Any], setting: Sequence[tuple[str, JsonValue]], seed: int) -> RunOptions:
    """A run's options: the sweep's own, with one value of each axis."""
    options = {option.name: option for option in RUN_OPTIONS}
    changes: dict[str, Any] = {"seed": seed}
    overrides = list(plain["set"])
    for path, value in setting:
        option = options.get(path)
        if option is None:
            overrides.append(Override(path, value))
        elif option.field in OPTIONS_TO_VARY:
            changes[option.field] = _typed(path, value, option.type)
        else:
            own = "give --seeds N" if path == "seed" else f"give --{path} once"
            raise UsageError(f"--over {path}: all runs of a sweep share it: {own}")
    defaults = plain["defaults"] - changes.keys()
    return RunOptions(**{**plain, **changes, "set": tuple(overrides), "defaults": defaults})


def _typed(path: str, value: JsonValue, kind: type) -> Any:
    if kind is str and isinstance(value, str | int | float):
        return str(value)
    if type(value) is kind:
        return value
    raise UsageError(f"--over {path}: {value!r} is not of type {kind.__name__}")
