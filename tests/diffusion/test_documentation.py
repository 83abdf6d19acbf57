"""docs/mathematics.md names existing functions and tests, and covers every equation."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/mathematics.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:1] == "|"]
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
    file, _, test = path.partition("::")
    assert (ROOT / file).exists()
    if test:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8")


def numbered(word: str) -> set[str]:
    """What rows begin with `word`: its numbers or letters, ranges spelt out."""
    found: set[str] = set()
    for first, *_ in ROWS:
        for text in re.findall(rf"{word}s? ((?:[0-9A-I]+(?:[–,] ?)?)+)", first):
            for part in text.replace(" ", "").strip(",").split(","):
                low, _, high = part.partition("–")
                found |= {str(n) for n in range(int(low), int(high) + 1)} if high else {low}
    return found


@pytest.mark.parametrize(
    ("word", "all_of_them"), [("Table", "1 2 3"), ("App.", "A B C D E F G H I"), ("Algorithm", "1 2"), ("Figure", None)]
)
def test_every_table_figure_algorithm_and_appendix_has_a_row(word: str, all_of_them: str | None) -> None:
    wanted = {str(n) for n in range(1, 14)} if all_of_them is None else set(all_of_them.split())
    assert numbered(word.replace(".", r"\.")) >= wanted
