"""`progdistill report` and `progdistill compare`, as typed in the folder where runs were made."""

import argparse
import json
from pathlib import Path

import pytest

from progdistill.cli import main
from progdistill.commands import compare
from progdistill.errors import UsageError
from progdistill.report.build import build_report
from tests.report.runs import example_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    build_report(example_run(), folder / "runs" / "1700000000" / "report")
    build_report(example_run("1700000001"), folder / "runs" / "1700000001" / "report")
    (folder / "runs" / "latest").symlink_to("1700000001")
    return folder


@pytest.fixture
def work(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(runs)
    return runs


@pytest.mark.parametrize("name", ["1700000000", "DistillFlow/1700000000", "runs/1700000000"])
def test_a_run_is_found_under_every_name(work: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", name]) == 0
    assert capsys.readouterr().out.strip() == "runs/1700000000/report/report.html"


def test_the_report_is_made_again(work: Path) -> None:
    page = work / "runs" / "1700000001" / "report" / "report.html"
    before = page.read_text()
    page.unlink()
    assert main(["report", "latest"]) == 0
    assert page.read_text() == before


def test_an_unknown_run_is_answered_with_those_that_exist(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "17"]) == 2
    assert "1700000000, 1700000001" in capsys.readouterr().err


def test_compare_prints_each_run_s_distances(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _compare("1700000000", "latest", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["rows"][-1] == {"num_steps": 1, "distances": [10.5, 10.5]}
    assert Path(facts["page"]).exists()


def test_comparing_one_run_is_a_usage_error(work: Path) -> None:
    with pytest.raises(UsageError, match="at least two runs"):
        _compare("latest")


def _compare(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    compare.add_parser(parser.add_subparsers())
    args = parser.parse_args(["compare", *arguments])
    status: int = args.run(args)
    return status
