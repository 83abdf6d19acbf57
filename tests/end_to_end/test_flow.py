"""The flow as a user runs it, in real processes on the embedded digits."""

import base64
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from progdistill.run.progress_record import progress_of
from progdistill.store.open import open_store
from tests.end_to_end.running import SMALL, environment, ids_of, report_of, run_flow


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run's folder, for tests that add to it."""
    return Path(shutil.copytree(finished, tmp_path / "copy", symlinks=True))


def test_a_run_reports_every_rung_with_its_baselines(finished: Path) -> None:
    report = report_of(finished)
    checkpoints = report["checkpoints"]
    assert [c["sampling_steps"] for c in checkpoints] == [4, 2, 1]
    assert [c["kind"] for c in checkpoints] == ["base", "student", "student"]
    assert all(c["distance"] > 0 and c["baseline_ddim"] > 0 for c in checkpoints)
    assert "fid" not in checkpoints[0]["distance_name"]
    assert checkpoints[2]["parent"] == checkpoints[1]["id"]
    assert report["timings"]["overhead_seconds_per_stage"] > 0


def test_the_report_is_in_the_store_too_where_it_outlives_a_pod(finished: Path) -> None:
    run = finished / "runs" / "latest"
    kept = finished / ".progdistill/store/reports/DistillFlow" / run.resolve().name / "report.html"
    assert kept.read_bytes() == (run / "report" / "report.html").read_bytes()


def test_the_report_and_the_lineage_are_cards(finished: Path) -> None:
    cards = {path.name.split("-")[1]: path for path in (finished / ".metaflow").rglob("mf.cards/**/*.html")}
    last = ids_of(finished)[-1]
    assert cards.keys() == {"report", "lineage"}
    for path in cards.values():
        encoded = re.search(r'__MF_DATA__\["[^"]*"\] = "([^"]+)"', path.read_text())
        assert encoded is not None
        shown = base64.b64decode(encoded[1]).decode()
        assert last[:8] in shown and "Error Card" not in shown


def test_a_team_finds_the_run_by_its_tags(finished: Path) -> None:
    code = (
        "from metaflow import Flow, namespace; namespace(None);"
        " print(*[sorted(run.user_tags) for run in Flow('DistillFlow').runs('dataset:digits')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=finished, env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['dataset:digits', 'ladder:4:1']"


def test_progress_of_every_job_stays_in_the_store(finished: Path) -> None:
    run_id = report_of(finished)["run_id"]
    jobs = progress_of(open_store(str(finished / ".progdistill/store")), "DistillFlow", run_id)
    assert [job.state for job in jobs] == ["finished"] * 7
    assert {job.label for job in jobs} > {"base model", "student of 2 steps", "evaluator"}
    assert all(job.training is not None for job in jobs[:3])


@pytest.mark.slow
def test_an_identical_run_elsewhere_gives_identical_checkpoints(finished: Path, tmp_path: Path) -> None:
    done = run_flow(tmp_path, "run", "--ladder", "4:1", *SMALL)
    assert done.returncode == 0, done.stderr[-2000:]
    assert ids_of(tmp_path) == ids_of(finished)


def test_the_same_run_again_finds_everything_done(copy: Path) -> None:
    """Damage to somebody else's checkpoint in the store is no matter."""
    damaged = copy / ".progdistill" / "store" / "checkpoints" / ("f" * 64)
    damaged.mkdir()
    (damaged / "manifest.json").write_text("{}")
    done = run_flow(copy, "run", "--ladder", "4:1", *SMALL)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("found finished in the store") == 7


def test_a_branch_starts_at_its_teachers_steps_and_names_it_as_parent(copy: Path) -> None:
    report = report_of(copy)
    teacher = report["checkpoints"][1]["id"]
    reference = f"DistillFlow/{report['run_id']}/2"
    done = run_flow(copy, "run", "--from", reference, *SMALL, "--set", "distill.learning_rate=0.0005")
    assert done.returncode == 0, done.stderr[-2000:]
    branch = report_of(copy)["checkpoints"]
    assert [c["sampling_steps"] for c in branch] == [2, 1]
    assert branch[0]["id"] == teacher and branch[1]["parent"] == teacher


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dataset", "nonsense"], "digits"),
        (["--dataset", "imagenet64"], "progdistill data prepare imagenet64"),
        (["--ladder", "6:1"], "power of two"),
        (["--ladder", "1:8"], "goes up"),
        (["--from", "feedfeed"], "feedfeed"),
        (["--dataset", "digits", "--preset", "cifar10"], "preset cifar10"),
        (["--store", "/dev/null/store"], "/dev/null/store"),
        (["--set", "distill.updatez=3"], "distill.updates"),
        (["--set", "model.network.base_channels=16384"], "free"),
    ],
)
def test_bad_input_is_one_message_and_starts_nothing(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = run_flow(tmp_path, "run", *arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_run_that_never_began_is_none_to_go_on_with(copy: Path) -> None:
    done = run_flow(copy, "run", "--no-such-option")
    assert done.returncode != 0 and "resume" not in done.stderr
