"""The reference pages, made from the code: commands, settings, exit statuses, records."""

import argparse
import ast
import importlib
import inspect
import json
import pkgutil
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from pydantic import BaseModel

import progdistill
from progdistill.cli.main import make_parser
from progdistill.config.deployment import DeploymentSettings, PodSettings
from progdistill.config.overrides import FORMER_SETTINGS
from progdistill.config.presets import PRESETS, Preset
from progdistill.config.settings import OPTIONS, Settings
from progdistill.errors import ProgdistillError
from progdistill.models_base import leaves
from progdistill.store.documents import Record
from progdistill.store.layout import KINDS

Schema = dict[str, Any]


def pages() -> Iterator[tuple[str, str]]:
    """Each page's path in the site, and its content."""
    yield "reference/commands.md", commands_page()
    yield "reference/settings.md", settings_page()
    yield "reference/exit_statuses.md", exit_statuses_page()
    yield "reference/records.md", records_page()
    for model in records():
        yield f"reference/schemas/{model.__name__}.json", json.dumps(model.model_json_schema(), indent=2) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def _cell(text: str) -> str:
    parts = " ".join(text.replace("|", "\\|").split()).split("`")
    parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]  # what is between backticks stays
    return "`".join(parts)


# Commands


def commands_page() -> str:
    """Every command with its arguments and options."""
    parts = [
        "# Commands",
        "Every command, made from the code. `run` and `resume` also take the options of Metaflow's own commands of"
        " those names. A command exits with one of these [statuses](exit_statuses.md).",
    ]
    for name, parser in _verbs(make_parser()):
        options = [action for action in parser._actions if action.help != argparse.SUPPRESS]
        usage = "".join(parser.format_usage().removeprefix("usage: ").splitlines(keepends=True))
        parts += [f"## {name}", parser.description or "", f"```text\n{usage}```"]
        rows = [_option_row(action) for action in options if action.dest != "help"]
        if rows:
            parts.append(table(("argument or option", "meaning"), rows))
        if parser.epilog:
            parts.append(f"```text\n{parser.epilog}\n```")
    return "\n\n".join(parts) + "\n"


def _verbs(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield parser.prog, parser
    for group in groups:
        for inner in group.choices.values():
            yield from _verbs(inner)


def _option_row(action: argparse.Action) -> tuple[str, str]:
    values = "" if action.nargs == 0 else action.metavar or "|".join(map(str, action.choices or ()))
    if action.option_strings:
        name = ", ".join(f"`{option} {values}`" if values else f"`{option}`" for option in action.option_strings)
    else:
        name = f"`{values or action.dest}`"
    text = (action.help or "") % {"default": action.default, "prog": "progdistill"}
    return name, text


# Settings


def settings_page() -> str:
    """Every setting of a run and of a deployment, and the values of the presets."""
    given = "\n".join(f"- `{path}`: `--{option}`" for path, option in OPTIONS.items())
    return (
        "\n\n".join(
            [
                "# Settings",
                "Every setting of a run. Set one with `--set PATH=VALUE`, or under `[set]` in `progdistill.toml`; write"
                " lists and tables as JSON on the command line. `progdistill plan --json` prints them all, resolved."
                " Units stand in the names or the text; sizes in GiB are 2³⁰ bytes.",
                "These have an option of their own instead:",
                given,
                _settings_tables(Settings),
                "## What the presets say",
                "A preset is the dataset's own, or that of the paper's dataset with images of this size. These settings"
                " differ between presets; `progdistill/config/presets.py` says where each value is from.",
                _presets_table(),
                "## A deployment",
                "Fields of `deployment.toml`, for [scheduled runs](../schedules.md); `pod` and `steps.NAME` take the"
                " fields of the second table.",
                table(("field", "values", "default", "meaning"), _rows(DeploymentSettings.model_json_schema())),
                table(("field of a pod", "values", "default", "meaning"), _rows(PodSettings.model_json_schema())),
                "## Former names",
                table(("setting", "what became of it"), ((f"`{k}`", v) for k, v in FORMER_SETTINGS.items())),
            ]
        )
        + "\n"
    )


def _settings_tables(model: type[BaseModel]) -> str:
    schema = model.model_json_schema()
    sections: dict[str, list[tuple[str, ...]]] = {}
    for row in _rows(schema, schema):
        path = row[0].strip("`")
        section = "Of the run" if "." not in path else f"`{path.rpartition('.')[0]}`"
        sections.setdefault(section, []).append(row)
    head = ("setting", "values", "default", "meaning")
    return "\n\n".join(f"## {name}\n\n{table(head, rows)}" for name, rows in sections.items())


def _rows(schema: Schema, root: Schema | None = None, path: str = "") -> Iterator[tuple[str, ...]]:
    """A row for every leaf: path, values, default, meaning."""
    root = root or schema
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        where, inner = f"{path}.{name}" if path else name, _resolved(field, root)
        if "oneOf" in field and "discriminator" not in field:  # networks: ours is the one that settings describe
            inner = _resolved(field["oneOf"][0], root)
        if "properties" in inner and "anyOf" not in field:
            yield from _rows(inner, root, where)
        else:
            unset = "its option" if where in OPTIONS else "preset"
            default = unset if name in required else _value(field.get("default", inner.get("default")))
            yield f"`{where}`", _values(field, root), default, _meaning(field, inner)


def _meaning(field: Schema, inner: Schema) -> str:
    """What a field says of itself, with Python's None as the command line writes it."""
    text: str = field.get("description", inner.get("description", ""))
    return re.sub(r"\bNone\b", "`null`", text)


def _resolved(field: Schema, root: Schema) -> Schema:
    reference = field.get("$ref") or (field["allOf"][0].get("$ref") if "allOf" in field else None)
    return root["$defs"][reference.rpartition("/")[2]] if reference else field


def _values(field: Schema, root: Schema) -> str:
    """What a field may be, in words: its type and range, or the choices."""
    field = _resolved(field, root)
    if "discriminator" in field:
        return f"table of kind {', '.join(f'`{kind}`' for kind in field['discriminator']['mapping'])}"
    if "anyOf" in field:
        kinds = [_values(kind, root) for kind in field["anyOf"] if kind.get("type") != "null"]
        return " or ".join([*kinds, *(["null"] if len(kinds) < len(field["anyOf"]) else [])])
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{choice}`" for choice in field["enum"])
    kind = {"integer": "integer", "number": "number", "string": "text", "boolean": "`true`, `false`"}.get(
        field.get("type", "object"), field.get("type", "table")
    )
    if kind == "array":
        return f"list of: {_values(field.get('items', {}), root)}" if "items" in field else "list"
    bounds = [
        f"{sign} {field[key]:,}" if isinstance(field[key], int) else f"{sign} {field[key]:g}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in field
    ]
    pattern = f" matching `{field['pattern']}`" if "pattern" in field else ""
    return " ".join([kind if kind != "object" else "table", *bounds]) + pattern


def _value(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _presets_table() -> str:
    found = {name: dict(leaves(_preset_values(preset))) for name, preset in PRESETS.items()}
    paths = dict.fromkeys(path for values in found.values() for path in values)
    rows = [(f"`{path}`", *(_value(values.get(path)) for values in found.values())) for path in paths]
    return table(("setting", *found), (row for row in rows if len(set(row[1:])) > 1))


def _preset_values(preset: Preset) -> dict[str, Any]:
    values = preset._asdict()
    return {name: value if name == "ladder" else value.model_dump(mode="json") for name, value in values.items()}


# Exit statuses


def exit_statuses_page() -> str:
    """What each exit status means, from the exceptions that have it."""
    statuses: dict[int, list[type[ProgdistillError]]] = {}
    for error in [ProgdistillError, *_subclasses(ProgdistillError)]:
        statuses.setdefault(error.exit_status, []).append(error)
    rows = [("0", "done", "")]
    rows += [
        (str(status), f"`{error.__name__}`", (error.__doc__ or "").split("\n\n")[0])
        for status in sorted(statuses)
        for error in statuses[status]
    ]
    return (
        "\n\n".join(
            [
                "# Exit statuses",
                "The status of every command, and the exception that Python callers get instead. What to do about each:"
                " [When something goes wrong](../how_to/errors.md). What a status of a pod does to its Job:"
                " [Kubernetes](../kubernetes.md#when-a-rank-or-a-pod-ends).",
                table(("status", "exception", "meaning"), rows),
            ]
        )
        + "\n"
    )


def _subclasses(kind: type[Any]) -> list[type[Any]]:
    _import_everything()
    return [found for direct in kind.__subclasses__() for found in (direct, *_subclasses(direct))]


def _import_everything() -> None:
    for module in pkgutil.walk_packages(progdistill.__path__, "progdistill."):
        if not module.name.startswith(("progdistill.flow", "progdistill.argo", "progdistill.run.metaflow")):
            importlib.import_module(module.name)


# Records


def records() -> list[type[BaseModel]]:
    """Every document that a store or a run's folder keeps, by name."""
    from progdistill.jobs.events import JobEvent, TrainingEvent
    from progdistill.report.comparison import Comparison
    from progdistill.report.input import ReportInput
    from progdistill.report.sweep import SweepReport
    from progdistill.run.prepare import PreparedRun

    others: list[type[BaseModel]] = [ReportInput, Comparison, SweepReport, TrainingEvent, JobEvent]
    others += [Settings, PreparedRun]
    ours = [model for model in _subclasses(Record) if model.__module__.startswith("progdistill.")]
    return sorted({*ours, *others}, key=lambda model: model.__name__)


def _attribute_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """What strings below the fields of a class and of its bases say."""
    found: dict[str, str] = {}
    for base in reversed([base for base in model.__mro__ if base.__module__.startswith("progdistill.")]):
        (parsed,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(parsed, ast.ClassDef)
        for field, text in pairwise(parsed.body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                    found[name] = said
    return found


def records_page() -> str:
    """The objects of a store, and the fields of every document, with its JSON schema."""
    kinds = [(f"`{kind.pattern}`", kind.lifetime.value, "yes" if kind.sealed else "no") for kind in KINDS]
    parts = [
        "# Records and schemas",
        "Every document that a store or a run's folder keeps as JSON. [Artifacts](../artifacts.md) explains them.",
        "## Objects of a store",
        table(("key", "what keeps it", "sealed documents"), kinds),
    ]
    for model in records():
        schema = model.model_json_schema()
        said = _attribute_docstrings(model)
        rows = [
            (f"`{name}`", _values(field, schema), _meaning(field, {"description": said.get(name, "")}))
            for name, field in schema.get("properties", {}).items()
        ]
        parts += [
            f"## {model.__name__}",
            f"{(model.__doc__ or '').strip()}\n\nDefined in `{model.__module__}`;"
            f" [JSON schema](schemas/{model.__name__}.json).",
            table(("field", "values", "meaning"), rows),
        ]
    return "\n\n".join(parts) + "\n"
