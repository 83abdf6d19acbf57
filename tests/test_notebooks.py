"""The notebooks run from top to bottom, and what a notebook shows of our objects."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from progdistill.notebook import html_table
from progdistill.report.comparison import compare_runs
from tests.end_to_end.running import environment
from tests.report.runs import example_run

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_samples_and_tables(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    activated = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    client = NotebookClient(notebook, timeout=1500, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment(PATH=activated))
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
    assert any("image/png" in output.data for output in shown)
    assert any("<table>" in output.data.get("text/html", "") for output in shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(not cell.outputs and cell.execution_count is None for cell in code)


def test_texts_in_a_table_are_escaped() -> None:
    assert html_table([("a<b", "1")]) == "<table><tr><th>a&lt;b</th><td>1</td></tr></table>"
    assert "<thead><tr><th>x</th></tr></thead><tr><td>1</td></tr>" in html_table([("1",)], head=["x"])


def test_a_comparison_shows_each_runs_distances_and_what_differs() -> None:
    first = example_run("1")
    second = example_run("2", configuration={**first.configuration, "seed": 1})
    shown = compare_runs([first, second])._repr_html_()
    assert "<th>run 1</th><th>run 2</th>" in shown and "<td>seed</td><td>0</td><td>1</td>" in shown
