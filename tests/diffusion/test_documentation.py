"""docs/mathematics.md claims only what exists, and leaves no equation out."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/mathematics.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:1] == "|"
]
CODE = sorted(set(re.findall(r"`([a-z_]+\.[A-Za-z_]+)`", PAGE)))
PATHS = sorted(set(re.findall(r"`((?:progdistill|tests|benchmarks)/[^`]+)`", PAGE)))


def test_every_equation_has_a_row() -> None:
    covered: set[int] = set()
    for first, *_ in ROWS:
        for low, high in re.findall(r"^(\d+)(?:[–,] ?(\d+))?$", first):
            covered |= set(range(int(low), int(high or low) + 1))
    assert covered >= set(range(1, 44))


@pytest.mark.parametrize("name", [name for name in CODE if not name.startswith("test_")])
def test_every_function_on_the_page_exists(name: str) -> None:
    module, function = name.split(".")
    assert hasattr(importlib.import_module(f"progdistill.diffusion.{module}"), function)


@pytest.mark.parametrize("name", [name for name in CODE if name.startswith("test_")])
def test_every_test_on_the_page_exists(name: str) -> None:
    module, function = name.split(".")
    assert f"def {function}(" in (ROOT / f"tests/diffusion/{module}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PATHS)
def test_every_path_on_the_page_exists(path: str) -> None:
    assert (ROOT / path).exists()
