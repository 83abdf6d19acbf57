"""`progdistill checkpoints` and `progdistill lineage`: output and exit statuses."""

import argparse
import json
import os
from pathlib import Path

import pytest

from progdistill.cli.main import checkpoints, lineage, main
from progdistill.errors import UsageError
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.registry.runs import record_run_checkpoint
from progdistill.store.base import Store
from progdistill.store.documents import Record, encode
from progdistill.store.layout import blob_key, checkpoint_key
from progdistill.store.open import mark_layout, open_store
from tests.registry.samples import measure, publish_base, publish_student


class Newer(Record):
    """A document of a version to come."""

    schema_version: int = 3


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


def test_list_shows_one_line_per_checkpoint(
    store: Store, student: CheckpointManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(store, "checkpoints", "list") == 0
    head, base, last = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["id", "kind", "sampling", "steps"]
    assert base.split()[1:3] == ["base", "any"]
    assert last.split()[:3] == [student.id[:12], "student", "4"]


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--sampling-steps", "4"], 1),
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
    assert [row["sampling_steps"] for row in json.loads(capsys.readouterr().out)] == found


def test_distances_that_do_not_compare_choose_nothing(local_store: Store, tmp_path: Path) -> None:
    four = publish_student(local_store, tmp_path, publish_base(local_store, tmp_path), steps=4)
    two = publish_student(local_store, tmp_path, four, steps=2)
    measure(local_store, four, 4.0, steps=4)
    measure(local_store, two, 3.0, steps=2, name="fid")
    with pytest.raises(UsageError, match="fd and fid are not comparable"):
        run(local_store, "checkpoints", "list", "--max-distance", "5")


@pytest.mark.parametrize("words", [["list", "--run", "DistillFlow/9"], ["gc", "--forget-run", "DistillFlow/9"]])
def test_an_unknown_run_is_refused(local_store: Store, words: list[str]) -> None:
    mark_layout(local_store)
    with pytest.raises(UsageError, match="Flow/run id"):
        run(local_store, "checkpoints", *words)


def test_show_gives_the_whole_manifest(
    store: Store, student: CheckpointManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(store, "checkpoints", "show", "DistillFlow/1/4", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts.pop("aliases") == []
    assert CheckpointManifest.model_validate(facts) == student


def test_verify_finds_the_damaged_checkpoint(
    store: Store, student: CheckpointManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(store, "checkpoints", "verify") == 0
    store.write(blob_key(student.identity.weights.sha256), b"other bytes")
    assert run(store, "checkpoints", "verify", "--json") == 1
    results = json.loads(capsys.readouterr().out.partition("\n[")[2].join(["[", ""]))
    assert [result["id"] for result in results if not result["intact"]] == [student.id]


@pytest.mark.parametrize("words", [["checkpoints", "list"], ["lineage"], ["checkpoints", "verify"]])
@pytest.mark.parametrize(
    ("content", "status", "said"), [(b"{}", 1, "damaged"), (encode(Newer()), 2, "upgrade progdistill")]
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
    store.write(checkpoint_key(student.identity.parent or ""), content)
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


@pytest.mark.parametrize("options", [[], ["--remove"]])
def test_an_unknown_alias_is_refused(local_store: Store, options: list[str]) -> None:
    mark_layout(local_store)
    with pytest.raises(UsageError, match="no alias 'best'"):
        run(local_store, "checkpoints", "alias", "best", *options)
    assert list(local_store.list("aliases/")) == []


def test_an_alias_is_moved_or_removed_but_not_both(local_store: Store, tmp_path: Path) -> None:
    base = publish_base(local_store, tmp_path)
    run(local_store, "checkpoints", "alias", "best", base.id)
    with pytest.raises(UsageError, match="--remove"):
        run(local_store, "checkpoints", "alias", "best", base.id, "--remove")
    assert run(local_store, "checkpoints", "alias", "best", "--remove") == 0
    with pytest.raises(UsageError, match="no alias 'best'"):
        run(local_store, "checkpoints", "alias", "best", "--remove")


def test_gc_shows_first_and_removes_on_demand(
    local_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_base(local_store, tmp_path)
    for item in local_store.list(""):
        os.utime(Path(local_store.uri, item.key), (0, 0))
    assert run(local_store, "checkpoints", "gc", "--grace-days", "1") == 0
    assert "nothing was deleted" in capsys.readouterr().out
    assert run(local_store, "checkpoints", "gc", "--grace-days", "0", "--delete", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["objects"]) == 2
    assert list(local_store.list("checkpoints/")) == []


def test_a_grace_period_that_uploads_to_s3_rely_on_is_kept(s3_uri: str) -> None:
    store = open_store(s3_uri)
    mark_layout(store)
    assert run(store, "checkpoints", "gc", "--grace-days", "0.5") == 0
    assert run(store, "checkpoints", "gc", "--grace-days", "1", "--delete") == 0
    with pytest.raises(UsageError, match=r"--grace-days 0.5 with --delete: give 1 or more"):
        run(store, "checkpoints", "gc", "--grace-days", "0.5", "--delete")


@pytest.mark.parametrize("days", ["nan", "inf", "-inf", "1e20", "-5"])
def test_a_grace_period_that_is_none_is_refused(local_store: Store, days: str) -> None:
    mark_layout(local_store)
    with pytest.raises(UsageError, match="--grace-days .*: give a number from 0 to 36,500"):
        run(local_store, "checkpoints", "gc", f"--grace-days={days}")


@pytest.mark.parametrize(
    "key",
    [
        "aliases/best.json",
        "evaluations/{id}/4.0.json",
        "runs/DistillFlow/1/4.json",
        "jobs/{id}/result.json",
        "evaluators/{id}/manifest.json",
        "snapshots/{id}/000000000001-a/00000-of-00001.json",
        "blobs/sha256/aa/" + "a" * 64,
    ],
)
def test_verify_finds_whatever_else_is_damaged_once(
    store: Store, student: CheckpointManifest, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    key = key.format(id=student.id)
    store.write("reports/DistillFlow/1/report.html", b"no sealed document")
    store.write(key, b'{"damaged": true}')
    assert run(store, "checkpoints", "verify", "--json") == 1
    *intact, damaged = json.loads(capsys.readouterr().out)
    assert [one["intact"] for one in intact] == [True, True] and all("id" in one for one in intact)
    assert (damaged["key"], damaged["intact"]) == (key, False) and "damaged" in damaged["problem"]
    assert run(store, "checkpoints", "verify") == 1
    assert capsys.readouterr().out.count(f"{key}  ") == 1


def test_verify_of_one_checkpoint_reads_its_evaluations_only(
    local_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = publish_base(local_store, tmp_path)
    local_store.write("jobs/other/result.json", b"{}")
    assert run(local_store, "checkpoints", "verify", base.id) == 0
    local_store.write(f"evaluations/{base.id}/1.json", b"{}")
    assert run(local_store, "checkpoints", "verify", base.id) == 1


def test_verify_reports_a_damaged_weights_file_with_its_checkpoint_alone(
    store: Store, student: CheckpointManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write(blob_key(student.identity.weights.sha256), b"other bytes")
    assert run(store, "checkpoints", "verify", "--json") == 1
    results = json.loads(capsys.readouterr().out)
    assert [one["id"] for one in results if not one["intact"]] == [student.id]


VERBS: list[list[str]] = [
    ["checkpoints", "list"],
    ["checkpoints", "verify"],
    ["checkpoints", "show", "abcd"],
    ["checkpoints", "alias", "best"],
    ["checkpoints", "gc"],
    ["lineage"],
    ["sample", "abcd"],
    ["evaluate", "abcd"],
    ["export", "abcd", "--format", "onnx", "--out", "new"],
]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with no settings in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PROGDISTILL_STORE", raising=False)
    return tmp_path


@pytest.mark.parametrize("words", VERBS)
def test_a_store_that_is_named_but_not_there_is_no_empty_store(
    work: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "file").touch()
    for uri, said in [("tpyo", "no store at"), ("file", "no store at"), ("", "--store is empty")]:
        assert main([*words, "--store", uri]) == 2
        assert said in capsys.readouterr().err
    assert main([*words, "--store", "s3:///x"]) == 2
    assert "s3://bucket/prefix" in capsys.readouterr().err
    monkeypatch.setenv("PROGDISTILL_STORE", "tpyo")
    assert main(words) == 2
    assert f"no store at {work}/tpyo" in capsys.readouterr().err
    assert not (work / "tpyo").exists()


def test_a_prefix_without_objects_is_no_store(s3_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", "list", "--store", f"{s3_uri}/tpyo"]) == 2
    assert f"no store at {s3_uri}/tpyo" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["checkpoints", "list"], ["checkpoints", "verify"], ["lineage"]])
def test_where_nothing_was_made_yet_there_is_nothing_to_show(
    work: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    assert "no checkpoint in" in capsys.readouterr().err
    assert list(work.iterdir()) == []


def test_the_store_of_the_defaults_file_is_that_of_every_verb(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = publish_base(open_store("mystore"), work)
    (work / "progdistill.toml").write_text('store = "mystore"\n')
    assert main(["checkpoints", "show", base.id]) == 0
    monkeypatch.setenv("PROGDISTILL_STORE", "another")
    assert main(["checkpoints", "show", base.id]) == 2
    assert main(["checkpoints", "show", base.id, "--store", "mystore"]) == 0


def test_a_broken_defaults_file_is_one_message_and_help_goes_without(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (work / "progdistill.toml").write_text("store = ")
    assert main(["checkpoints", "list"]) == 2
    assert "progdistill.toml is not valid TOML" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        main(["checkpoints", "list", "--help"])


@pytest.mark.parametrize("path", ["/etc", "", "/dev/null/x", "/proc/x"])
def test_a_page_that_cannot_be_written_is_one_message(
    local_store: Store, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mark_layout(local_store)
    assert main(["lineage", "--html", path, "--store", local_store.uri]) == 2
    assert "error: cannot write --html" in capsys.readouterr().err


def test_where_the_page_is_can_be_read_by_a_program(
    local_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mark_layout(local_store)
    page = tmp_path / "page.html"
    assert run(local_store, "lineage", "--html", str(page), "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"html": str(page)}


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
