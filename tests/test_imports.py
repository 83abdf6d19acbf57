"""Imports between rooms run one way, imports between files have no cycle, and light modules stay light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "progdistill"
ORDER = (
    *("version", "errors", "escape", "logs", "models_base", "progress", "signals", "images", "notebook"),
    *("diffusion", "store"),
    *("registry", "data", "models"),
    *("features", "training"),
    *("evaluation", "report", "config", "jobs", "run"),
    *("argo_template", "argo", "flow", "sweep_flow", "api", "cli"),
)
"""Root modules and rooms. Each may import itself and what stands before it."""

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
LIGHT = (
    *("config.options", "config.settings", "config.deployment"),
    *("run.prepare", "run.estimate", "run.steps", "run.report", "jobs.spec", "jobs.result_cache"),
    *("flow", "sweep_flow", "argo", "cli.main", "cli.run", "cli.sweep", "run.sweep"),
)
HEAVY = {"torch", "boto3", "sklearn", "matplotlib", "diffusers", "scipy", "kubernetes"}


def imported_by(module: str) -> Iterator[str]:
    """The modules of the package that a module imports, at any time (types apart)."""
    tree = ast.parse(MODULES[module].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room_of(module: str) -> str:
    return module.split(".")[1]


def test_every_module_and_every_room_has_its_place() -> None:
    assert {room_of(module) for module in MODULES if "." in module} <= set(ORDER)


@pytest.mark.parametrize("module", [module for module in MODULES if "." in module])
def test_a_module_imports_its_own_room_and_rooms_before_it(module: str) -> None:
    allowed = ORDER[: ORDER.index(room_of(module)) + 1]
    for name in imported_by(module):
        if name.startswith("progdistill."):
            assert room_of(name) in allowed, f"{module} imports {name}"


def test_no_files_import_one_another_in_a_circle() -> None:
    graph = {module: {name for name in imported_by(module) if name in MODULES} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" → ".join(error.args[1])) from None


@pytest.mark.parametrize(("module", "heavy"), [*((module, HEAVY) for module in LIGHT), ("cli.main", {"jinja2"})])
def test_what_every_task_and_every_command_imports_is_light(module: str, heavy: set[str]) -> None:
    code = f"import sys, progdistill.{module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_a_room_imports_nothing_else() -> None:
    """An `__init__.py` of a room is a docstring: whoever needs a module names it."""
    for path in PACKAGE.glob("*/**/__init__.py"):
        assert len(ast.parse(path.read_text()).body) == 1, path
