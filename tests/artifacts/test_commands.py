"""`progdistill checkpoints` and `progdistill lineage`: facts to standard output, problems by exit status."""

import argparse
import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from progdistill.artifacts.checkpoint import CheckpointManifest, blob_key, manifest_key
from progdistill.artifacts.documents import encode
from progdistill.artifacts.runs import record_run_checkpoint
from progdistill.artifacts.store import Store
from progdistill.commands import checkpoints, lineage
from progdistill.errors import UsageError
from tests.artifacts.samples import measure, publish_base, publish_student


class Newer(BaseModel):
    """A document of a version to come."""

    schema_version: int = 2


@pytest.fixture
def student(store: Store, tmp_path: Path) -> CheckpointManifest:
    """A student of 4 steps beside its teacher, held by DistillFlow/1."""
    student = publish_student(store, tmp_path, publish_base(store, tmp_path), steps=4)
    record_run_checkpoint(store, "DistillFlow", "1", 4, student.id)
    return student


def run(store: Store, *words: str) -> int:
    """Run `progdistill <words> --store <store>`; returns the exit status."""
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers()
    checkpoints.add_parser(verbs)
    lineage.add_parser(verbs)
    args = parser.parse_args([*words, "--store", store.uri])
    status: int = args.run(args)
    return status


def test_list_shows_one_line_a_checkpoint(
    store: Store, student: CheckpointManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(store, "checkpoints", "list") == 0
    head, base, last = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["id", "kind", "steps"]
    assert base.split()[1:3] == ["base", "any"]
    assert last.split()[:3] == [student.id[:12], "student", "4"]


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--steps", "4"], 1),
        (["--steps", "8"], 0),
        (["--dataset", "digits"], 2),
        (["--dataset", "cifar10"], 0),
        (["--run", "DistillFlow/1"], 1),
        (["--max-distance", "10"], 0),
    ],
)
def test_list_filters(
    local_store: Store, tmp_path: Path, options: list[str], count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    student = publish_student(local_store, tmp_path, publish_base(local_store, tmp_path), steps=4)
    record_run_checkpoint(local_store, "DistillFlow", "1", 4, student.id)
    assert run(local_store, "checkpoints", "list", "--json", *options) == 0
    assert len(json.loads(capsys.readouterr().out)) == count


@pytest.mark.parametrize(("limit", "found"), [("3.9", []), ("4", [4]), ("8.5", [4, 2])])
def test_list_chooses_by_distance_at_the_students_own_steps(
    store: Store, tmp_path: Path, limit: str, found: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    four = publish_student(store, tmp_path, publish_base(store, tmp_path), steps=4)
    two = publish_student(store, tmp_path, four, steps=2)
    measure(store, four, 4.0, steps=4)
    measure(store, two, 8.5, steps=2)
    measure(store, two, 1.0, steps=64)
    assert run(store, "checkpoints", "list", "--json", "--max-distance", limit) == 0
    assert [row["steps"] for row in json.loads(capsys.readouterr().out)] == found


def test_distances_that_do_not_compare_choose_nothing(local_store: Store, tmp_path: Path) -> None:
    four = publish_student(local_store, tmp_path, publish_base(local_store, tmp_path), steps=4)
    two = publish_student(local_store, tmp_path, four, steps=2)
    measure(local_store, four, 4.0, steps=4)
    measure(local_store, two, 3.0, steps=2, name="fid")
    with pytest.raises(UsageError, match="fd and fid do not compare"):
        run(local_store, "checkpoints", "list", "--max-distance", "5")


@pytest.mark.parametrize(
    "words", [["list", "--run", "DistillFlow/9"], ["gc", "--forget-run", "DistillFlow/9"]]
)
def test_an_unknown_run_is_refused(local_store: Store, words: list[str]) -> None:
    with pytest.raises(UsageError, match="Flow/run id"):
        run(local_store, "checkpoints", *words)


def test_show_gives_the_whole_manifest(
    store: Store, student: CheckpointManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(store, "checkpoints", "show", "DistillFlow/1/4", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts.pop("aliases") == []
    assert CheckpointManifest.model_validate(facts) == student


def test_verify_finds_the_damaged_one(
    store: Store, student: CheckpointManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(store, "checkpoints", "verify") == 0
    store.write(blob_key(student.identity.weights_sha256), b"other bytes")
    assert run(store, "checkpoints", "verify", "--json") == 1
    results = json.loads(capsys.readouterr().out.partition("\n[")[2].join(["[", ""]))
    assert [result["id"] for result in results if not result["intact"]] == [student.id]


@pytest.mark.parametrize("words", [["checkpoints", "list"], ["lineage"], ["checkpoints", "verify"]])
@pytest.mark.parametrize(
    ("content", "status", "said"),
    [(b"{}", 1, "damaged"), (encode(Newer()), 2, "upgrade progdistill")],
)
def test_what_cannot_be_read_hides_nothing_else(
    store: Store,
    student: CheckpointManifest,
    words: list[str],
    content: bytes,
    status: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store.write(manifest_key(student.identity.parent or ""), content)
    verifying = words[-1] == "verify"
    assert run(store, *words) == (1 if verifying else status)
    printed = capsys.readouterr()
    assert student.id[:12] in printed.out
    assert said in (printed.out if verifying else printed.err)


def test_a_damaged_evaluation_is_named_and_the_rest_listed(
    local_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = publish_base(local_store, tmp_path)
    local_store.write(f"evaluations/{base.id}/one.json", b"{}")
    assert run(local_store, "checkpoints", "list") == 1
    printed = capsys.readouterr()
    assert base.id[:12] in printed.out and f"evaluations/{base.id}/one.json" in printed.err


def test_alias_names_moves_and_removes(
    store: Store, student: CheckpointManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(store, "checkpoints", "alias", "best", student.id[:8]) == 0
    assert run(store, "checkpoints", "show", "best") == 0
    assert run(store, "checkpoints", "alias", "best", "--remove") == 0
    capsys.readouterr()
    assert run(store, "checkpoints", "alias", "best") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert student.id[:12] in first
    assert "removed" in second


def test_an_unknown_alias_has_no_history(local_store: Store) -> None:
    with pytest.raises(UsageError, match="no alias"):
        run(local_store, "checkpoints", "alias", "best")


def test_gc_shows_first_and_removes_on_demand(
    local_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_base(local_store, tmp_path)
    assert run(local_store, "checkpoints", "gc", "--grace-days", "-1") == 0
    assert "nothing was removed" in capsys.readouterr().out
    assert run(local_store, "checkpoints", "gc", "--grace-days", "-1", "--delete", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["objects"]) == 2
    assert list(local_store.list("checkpoints/")) == []


def test_lineage_draws_writes_and_exports(
    store: Store, student: CheckpointManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(store, "lineage", student.id) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("◀")
    page = tmp_path / "pages" / "lineage.html"
    assert run(store, "lineage", "--html", str(page)) == 0
    assert student.id in page.read_text()
    capsys.readouterr()
    assert run(store, "lineage", "--openlineage", "DistillFlow/1") == 0
    assert json.loads(capsys.readouterr().out)[0]["eventType"] == "START"
    assert run(store, "lineage", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["children"][0]["manifest"]["id"] == student.id
