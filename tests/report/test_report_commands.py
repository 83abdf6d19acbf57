"""`progdistill report` and `progdistill compare` on the command line, in the folder of the runs."""

import argparse
import json
import shutil
from pathlib import Path

import pytest

from progdistill.cli import report
from progdistill.cli.main import main
from progdistill.errors import UsageError
from progdistill.report.input import INPUT_FILE
from progdistill.run.report import report_folder
from tests.report.runs import example_run


@pytest.fixture(scope="module")
def runs(built_report: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    for run_id in ("1700000000", "1700000001"):
        copy = Path(shutil.copytree(built_report.parent, folder / "runs" / run_id / "report"))
        (copy / INPUT_FILE).write_text(example_run(run_id).model_dump_json())
    (folder / "runs" / "latest").symlink_to("1700000001")
    return folder


@pytest.fixture
def work(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(runs)
    return runs


@pytest.mark.parametrize("name", ["1700000000", "DistillFlow/1700000000", "runs/1700000000"])
def test_a_run_is_found_under_every_name(work: Path, name: str) -> None:
    assert report_folder(name) == Path("runs/1700000000/report")


def test_the_report_is_made_again(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = work / "runs" / "1700000000" / "report" / "report.html"
    before = page.read_text()
    page.unlink()
    assert main(["report", "DistillFlow/1700000000"]) == 0
    assert capsys.readouterr().out.strip() == "runs/1700000000/report/report.html"
    assert page.read_text() == before


def test_the_latest_run_is_meant_where_none_is_named(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 0
    assert capsys.readouterr().out.strip() == "runs/latest/report/report.html"


def test_a_price_gives_each_stage_its_cost_and_is_kept(work: Path) -> None:
    assert main(["report", "1700000001", "--price-per-hour", "36"]) == 0
    page = work / "runs" / "1700000001" / "report" / "report.html"
    assert "at 36 per machine-hour" in page.read_text()
    assert json.loads((page.parent / "report.json").read_text())["price_per_hour"] == 36


@pytest.mark.parametrize("price", ["-1", "nan", "inf"])
def test_what_is_no_price_is_refused(work: Path, price: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "1700000001", "--price-per-hour", price]) == 2
    assert f"--price-per-hour {price}" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["/dev/null/x", "/proc/x", "runs/1700000000/report/report.json"])
def test_a_comparison_that_cannot_be_written_is_one_message(
    work: Path, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "1700000000", "latest", "--out", out]) == 2
    assert f"error: cannot write --out {out}: " in capsys.readouterr().err


def test_the_distances_stand_below_the_run_they_are_of(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = ("1700000000000000", "1700000000000001")
    for run_id in ids:
        folder = work / "long" / run_id / "report"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INPUT_FILE).write_text(example_run(run_id).model_dump_json())
    assert main(["compare", "long/1700000000000000", "long/1700000000000001"]) == 0
    _, head, *rows, _ = capsys.readouterr().out.splitlines()
    columns = [head.index(run_id) for run_id in ids]
    assert rows and all(row[column - 1] == " " != row[column] for row in rows for column in columns)


def test_an_unknown_run_is_answered_with_those_that_exist(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "17"]) == 2
    assert "1700000000, 1700000001" in capsys.readouterr().err


def test_compare_prints_each_run_s_distances(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _compare("1700000000", "latest", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["rows"][-1] == {"sampling_steps": 1, "distances": [10.5, 10.5]}
    assert Path(facts["page"]).exists()


def test_comparing_one_run_is_a_usage_error(work: Path) -> None:
    with pytest.raises(UsageError, match="at least two runs"):
        _compare("latest")


def _compare(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    report.add_parser(parser.add_subparsers())
    args = parser.parse_args(["compare", *arguments])
    status: int = args.run(args)
    return status
