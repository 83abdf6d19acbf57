"""The tables of docs/results.md are those of the files that the experiments left."""

import re
from pathlib import Path

import pytest

from benchmarks.paper import tables

NAMED = re.compile(r"<!-- (paper_\w+)\.json -->")
FACTS = """{"dataset": "digits", "seeds": 2, "base_updates": 500, "updates_per_stage": 100, "samples": 500,
"header": ["steps", "distance"], "rows": [["1", "8.11 ± 0.59"]]}"""


def test_the_page_has_the_tables_of_the_result_files() -> None:
    page = tables.PAGE.read_text(encoding="utf-8")
    assert tables.page_with_tables(page) == page


def test_every_experiment_and_every_result_file_of_the_paper_is_on_the_page() -> None:
    named = set(NAMED.findall(tables.PAGE.read_text(encoding="utf-8")))
    scripts = {path.stem for path in Path(tables.__file__).parent.glob("*.py")} - {"common", "tables"}
    assert named == {f"paper_{name}" for name in scripts}
    assert {path.stem for path in tables.RESULTS.glob("paper_*.json")} <= named


def test_a_table_edited_by_hand_is_replaced_by_that_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    (tmp_path / "paper_figure_4.json").write_text(FACTS, encoding="utf-8")
    page = "# R\n\n<!-- paper_figure_4.json -->\n\n| 1 | 0.00 |\n\n<!-- end -->\n\nText.\n"
    made = tables.page_with_tables(page)
    assert "| 1 | 8.11 ± 0.59 |" in made and "0.00" not in made and made.endswith("<!-- end -->\n\nText.\n")
    assert "2 seeds; 500 updates of a base model, 100 of a stage; 500 samples." in made
