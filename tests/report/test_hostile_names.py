"""Names as nobody imagined them, through everything that shows a name: plots, pages, cards, files and terminals."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markupsafe import escape

from progdistill.cli.common import print_table
from progdistill.data.dataset import DatasetInfo
from progdistill.escape import markdown, one_line, printable
from progdistill.logs import configure_logging, logging
from progdistill.models.export import export_checkpoint
from progdistill.registry.checkpoint import publish_checkpoint
from progdistill.registry.lineage import draw, lineage_tree
from progdistill.report.build import build_report
from progdistill.report.card import report_components
from progdistill.report.comparison import build_comparison
from progdistill.report.lineage_page import lineage_page
from progdistill.store.open import open_store
from tests.evaluation.conftest import digits, publish
from tests.registry.samples import description, provenance, weights_file
from tests.report.runs import example_run

__all__ = ["digits"]

NAMES = (
    "$5_$10",
    "$\\frac{",
    "^{_}$",
    "<script>alert(1)</script>",
    "</title><img src=x onerror=alert(1)>",
    '" onload="alert(1)',
    "]](javascript:alert(1))![x](http://x/)",
    "```\n# heading",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b]0;title\x07\x1b[2J\x1b[31m",
    "\r\nerror: forged line",
    "\u202egnp.exe",
    "\x00\x01\x7f\x9b",
    "\ufffe\uffff\u2028",
    "&amp;&lt;",
    "_hidden",
    "日本語の名前 😀 \u0301",
    "x" * 5_000,
    "%s %d {0} {name}",
    "",
)
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.handlers: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def assert_harmless(page: str, scripts: int = 0) -> None:
    """No markup of a name's has become the page's, and nothing of it moves a terminal."""
    tags = Tags(page)
    assert tags.found.count("script") == scripts and tags.handlers == []
    assert not CONTROL.search(page)


@pytest.mark.parametrize("start", range(0, len(NAMES), 10))
def test_names_of_classes_stand_on_the_report_as_they_are(start: int, tmp_path: Path) -> None:
    names = NAMES[start : start + 10]
    page = build_report(example_run(class_names=names), tmp_path).read_text("utf-8")
    assert_harmless(page)
    for name in names:
        assert str(escape(one_line(name)[:9])) in page


@pytest.mark.parametrize("name", ["".join(NAMES[:9]), "".join(NAMES[9:17])], ids=range(2))
def test_a_run_whose_every_name_is_hostile_has_its_report_and_card(name: str, tmp_path: Path) -> None:
    run = example_run(
        run_id=name,
        dataset=name,
        evaluator=name,
        code_version=name,
        store=name,
        lineage=name,
        configuration={name: name},
    )
    stages = tuple(
        stage.model_copy(update={"distance_name": f"frechet_{name}", "device": name, "kind": name})
        for stage in run.checkpoints[-2:]
    )
    run = run.model_copy(update={"checkpoints": stages})
    assert_harmless(build_report(run, tmp_path / "report").read_text("utf-8"))
    for component in report_components(run):
        shown = str(getattr(component, "_text", "")) + str(getattr(component, "_data", ""))
        assert "<script" not in shown.partition("```")[0] and "<img" not in shown.partition("```")[0]
        assert not CONTROL.search(shown)
    other = run.model_copy(update={"run_id": f"{name} again", "configuration": {name: 7}})
    assert_harmless(build_comparison([run, other], tmp_path / "comparison").read_text("utf-8"))


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_model_of_a_hostile_name_is_drawn_and_listed(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(str(tmp_path / "store"))
    facts = description(prediction=name, architecture={"network": {}, "prediction": name})
    made = publish_checkpoint(store, weights_file(tmp_path), facts, provenance(dataset_name=name, device=name))
    tree = lineage_tree(store)
    (line,) = draw(tree)
    assert not CONTROL.search(line) and "\n" not in line
    print_table([("name", "id"), (name, made.id)])
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert_harmless(lineage_page(store, tree), scripts=2)


def test_a_model_card_takes_no_markup_from_a_name(digits: DatasetInfo, tmp_path: Path) -> None:
    store, name = open_store(str(tmp_path / "store")), "".join(NAMES)
    manifest = publish(store, tmp_path, digits.model_copy(update={"name": name}), seed=0)
    export_checkpoint(store, manifest, "safetensors", tmp_path / "out", None)
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "<script" not in card and "\n# heading" not in card and not CONTROL.search(card)
    assert card.count("[x]") == 0 and "\\$5\\_\\$10" in card


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_name_in_markdown_is_text(name: str) -> None:
    text = markdown(name)
    assert "\n" not in text and not re.search(r"(?<!\\)[`\[\]$|<>]", text) and not CONTROL.search(text)


def test_what_a_log_line_quotes_cannot_move_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    logging.getLogger("progdistill.test").warning("cannot read %s", NAMES[9])
    assert capsys.readouterr().err == "cannot read \\x1b]0;title\\x07\\x1b[2J\\x1b[31m\n"


def test_letters_of_every_language_stay() -> None:
    for text in ("Größe", "日本語", "Ελληνικά", "العربية", "😀", "a\nb\tc"):
        assert printable(text) == text
