"""Pages name only tests, files and commands that exist."""

import re
from pathlib import Path

import pytest

from progdistill.data.catalog import CATALOG, prepare_command

ROOT = Path(__file__).parents[1]
PAGES = ("docs/artifacts", "docs/data", "docs/reliability", "docs/architecture", "tests/README")


def page(name: str) -> str:
    """A page of the repository."""
    return (ROOT / f"{name}.md").read_text(encoding="utf-8")


def named_tests(text: str) -> list[tuple[str, str]]:
    """(file, test) for `folder/test_x.py::test_y`, where the file may be left out if it was just named."""
    found, file = [], ""
    for path, test in re.findall(r"`([\w/]*?(?:\w+\.py)?)::(test_\w+)`", text):
        file = path or file
        found.append((file, test))
    return found


NAMED = sorted({row for name in PAGES for row in named_tests(page(name))})


def test_the_fault_table_names_tests() -> None:
    assert len([test for file, test in NAMED if file]) >= 40


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_every_test_that_a_page_names_exists(file: str, test: str) -> None:
    places = [path for path in (ROOT / "tests").rglob("*.py") if str(path).endswith(f"/{file}")]
    assert [path for path in places if f"def {test}(" in path.read_text(encoding="utf-8")], (file, places)


@pytest.mark.parametrize("name", PAGES)
def test_every_path_that_a_page_names_exists(name: str) -> None:
    paths = re.findall(r"`((?:progdistill|tests|benchmarks|docs)/[\w/.-]+\w)(?:::\w+)?`", page(name))
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_page_that_a_message_names_exists_with_its_heading() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "progdistill").rglob("*.py"))
    named = set(re.findall(r"\b(docs/[\w/]+)\.md(?:#([\w-]+))?", code))
    assert len(named) >= 12
    for name, anchor in named:
        headings = re.findall(r"(?m)^#+ (.*)$", page(name))
        anchors = {re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
        assert anchor in {"", *anchors}, (name, anchor)


def test_the_page_on_data_has_the_command_of_every_known_dataset() -> None:
    assert [name for name in CATALOG if prepare_command(name).split(" --")[0] not in page("docs/data")] == []
