"""Garbage collection removes unreferenced objects, and nothing else."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from progdistill.registry.aliases import move_alias
from progdistill.registry.checkpoint import CheckpointManifest, list_ids
from progdistill.registry.evaluations import ContactSheet
from progdistill.registry.gc import find_garbage, remove_garbage
from progdistill.registry.runs import RunCheckpoint, record_run_checkpoint
from progdistill.store.base import Store
from progdistill.store.digest import FileDigest
from progdistill.store.documents import Record, encode
from progdistill.store.files import sweep_folder
from progdistill.store.layout import (
    blob_key,
    checkpoint_key,
    evaluator_key,
    job_result_key,
    neighbors_key,
    report_key,
    shard_key,
)
from progdistill.store.local import LocalStore
from tests.registry.samples import measure, publish_base, publish_student, weights_file

NO_GRACE = timedelta(seconds=-5)
"""Everything is old: S3 counts whole seconds, and what was written in this one must count as before now."""


class Holder(Record):
    """A record of a kind that the registry has never heard of."""

    keys: tuple[str, ...]

    def references(self) -> tuple[str, ...]:
        """See Record.references."""
        return self.keys


def collect(store: Store, *forget_runs: str) -> None:
    """Find and remove, without grace."""
    remove_garbage(store, find_garbage(store, grace=NO_GRACE, forget_runs=forget_runs))


@pytest.fixture
def ladder(store: Store, tmp_path: Path) -> list[CheckpointManifest]:
    """A base, two students in a chain held by run DistillFlow/1, and a branch that nothing holds."""
    base = publish_base(store, tmp_path)
    four = publish_student(store, tmp_path, base, steps=4)
    two = publish_student(store, tmp_path, four, steps=2)
    branch = publish_student(store, tmp_path, four, steps=1, seed=5)
    record_run_checkpoint(store, "DistillFlow", "1", 2, two.id)
    return [base, four, two, branch]


def test_what_a_run_holds_survives_with_all_its_teachers(store: Store, ladder: list[CheckpointManifest]) -> None:
    collect(store)
    assert list_ids(store) == sorted(manifest.id for manifest in ladder[:3])
    assert len(list(store.list("blobs/"))) == 3


def test_an_alias_keeps_a_checkpoint_as_long_as_it_points_there(store: Store, ladder: list[CheckpointManifest]) -> None:
    move_alias(store, "best", ladder[3].id, "ann@lab")
    collect(store)
    assert ladder[3].id in list_ids(store)
    move_alias(store, "best", ladder[2].id, "ann@lab")
    collect(store)
    assert ladder[3].id not in list_ids(store)


def test_a_forgotten_run_holds_nothing(store: Store, ladder: list[CheckpointManifest]) -> None:
    move_alias(store, "best", ladder[1].id, "ann@lab")
    collect(store, "DistillFlow/1")
    assert list_ids(store) == sorted(manifest.id for manifest in ladder[:2])
    assert list(store.list("runs/")) == []


def test_a_report_stays_as_long_as_its_run(store: Store, ladder: list[CheckpointManifest]) -> None:
    store.write(report_key("DistillFlow", "1"), b"<html>")
    collect(store)
    assert store.read(report_key("DistillFlow", "1")) == b"<html>"
    collect(store, "DistillFlow/1")
    assert store.read(report_key("DistillFlow", "1")) is None


def test_a_running_jobs_snapshot_keeps_the_teacher_it_names(store: Store, tmp_path: Path) -> None:
    teacher = publish_base(store, tmp_path)
    store.write("snapshots/job/1/0.json", encode(entry("1", teacher.id)))
    collect(store)
    assert list_ids(store) == [teacher.id]
    store.delete("snapshots/job/1/0.json")
    collect(store)
    assert list_ids(store) == []


def test_an_abandoned_job_keeps_nothing(store: Store, tmp_path: Path) -> None:
    teacher = publish_base(store, tmp_path)
    store.write("snapshots/job/1/0.json", encode(entry("1", teacher.id)))
    store.write("live/job/samples.png", b"png")
    remove_garbage(store, find_garbage(store, grace=NO_GRACE, patience=timedelta(hours=1)))
    assert list_ids(store) == [teacher.id]
    remove_garbage(store, find_garbage(store, grace=NO_GRACE, patience=NO_GRACE))
    assert [item.key for item in store.list("") if item.key != "store.json"] == []


def entry(run_id: str, checkpoint_id: str) -> RunCheckpoint:
    """Any small document that refers to a checkpoint."""
    return RunCheckpoint(flow="F", run_id=run_id, sampling_steps=1, checkpoint_id=checkpoint_id)


def test_evaluations_and_job_results_go_with_their_checkpoint(local_store: Store, tmp_path: Path) -> None:
    kept, gone = (publish_base(local_store, tmp_path, seed) for seed in range(2))
    record_run_checkpoint(local_store, "DistillFlow", "1", 8, kept.id)
    for manifest in (kept, gone):
        local_store.write(f"evaluations/{manifest.id}/1.json", encode(entry("1", manifest.id)))
        local_store.write(f"jobs/{manifest.id[::-1]}/result.json", encode(entry("1", manifest.id)))
    collect(local_store)
    assert [item.key.split("/")[1] for item in local_store.list("evaluations/")] == [kept.id]
    assert [item.key.split("/")[1] for item in local_store.list("jobs/")] == [kept.id[::-1]]


def test_what_a_surviving_record_refers_to_survives(local_store: Store, tmp_path: Path) -> None:
    picture = local_store.upload(weights_file(tmp_path, 9), blob_key)
    local_store.write("evaluators/any/manifest.json", encode(Holder(keys=(blob_key(picture.sha256),))))
    collect(local_store)
    assert len(list(local_store.list("blobs/"))) == 1


@pytest.mark.parametrize("harm", [b"?", b""])
def test_a_document_that_cannot_be_read_keeps_what_it_mentions(local_store: Store, tmp_path: Path, harm: bytes) -> None:
    kept = publish_base(local_store, tmp_path)
    local_store.upload(weights_file(tmp_path, 9), blob_key)
    facts = b'{"anything": "' + kept.id.encode() + b'"}'
    local_store.write("runs/F/1/4.json", harm + facts)
    collect(local_store)
    assert list_ids(local_store) == [kept.id]
    assert len(list(local_store.list("blobs/"))) == 1


def test_what_no_layout_declares_stays_with_all_it_refers_to(local_store: Store, tmp_path: Path) -> None:
    kept = publish_base(local_store, tmp_path)
    local_store.write("later/kind.json", encode(entry("1", kept.id)))
    local_store.write("later/file.bin", b"data")
    assert find_garbage(local_store, grace=NO_GRACE).objects == []


def test_finding_removes_nothing(local_store: Store, tmp_path: Path) -> None:
    publish_base(local_store, tmp_path)
    before = list(local_store.list(""))
    garbage = find_garbage(local_store, grace=NO_GRACE)
    assert len(garbage.objects) == 2
    assert garbage.size_bytes == sum(item.size_bytes for item in garbage.objects) > 0
    assert list(local_store.list("")) == before


def test_what_is_young_is_spared(store: Store, tmp_path: Path) -> None:
    publish_base(store, tmp_path)
    store.upload(weights_file(tmp_path, 2), blob_key)
    assert find_garbage(store, grace=timedelta(days=1)).objects == []


def test_what_was_published_again_meanwhile_stays(local_store: Store, tmp_path: Path) -> None:
    weights = weights_file(tmp_path)
    local_store.upload(weights, blob_key)
    garbage = find_garbage(local_store, grace=NO_GRACE)
    local_store.upload(weights, blob_key)
    assert remove_garbage(local_store, garbage) == 0
    assert len(list(local_store.list("blobs/"))) == 1


def test_a_job_with_a_result_needs_no_snapshots(local_store: Store) -> None:
    for job in ("done", "running"):
        local_store.write(f"snapshots/{job}/1/0.json", encode(entry("1", "0" * 64)))
    local_store.write("jobs/done/result.json", encode(entry("1", "0" * 64)))
    collect(local_store)
    assert [item.key for item in local_store.list("snapshots/")] == ["snapshots/running/1/0.json"]


def test_the_request_of_a_running_job_stays_and_ends_no_snapshot(local_store: Store) -> None:
    for job in ("done", "running"):
        local_store.write(f"jobs/{job}/request.json", encode(entry("1", "0" * 64)))
        local_store.write(f"snapshots/{job}/1/0.json", encode(entry("1", "0" * 64)))
    local_store.write("jobs/done/result.json", result())
    collect(local_store)
    left = [item.key for folder in ("jobs/", "snapshots/") for item in local_store.list(folder)]
    assert left == ["jobs/done/result.json", "jobs/running/request.json", "snapshots/running/1/0.json"]


def test_a_checkpoint_published_again_is_as_young_as_a_new_one(local_store: Store, tmp_path: Path) -> None:
    published = publish_base(local_store, tmp_path)
    age(local_store, days=8)
    assert len(find_garbage(local_store).objects) == 2
    assert publish_base(local_store, tmp_path) == published
    assert find_garbage(local_store).objects == []


def test_what_was_referred_to_since_it_was_found_stays_with_all_it_needs(
    store: Store, ladder: list[CheckpointManifest]
) -> None:
    measure(store, ladder[3], 5.0, steps=1)
    store.write("jobs/one/result.json", result(ladder[3].id))
    garbage = find_garbage(store, grace=NO_GRACE)
    assert len(garbage.objects) == 4
    record_run_checkpoint(store, "DistillFlow", "9", 1, ladder[3].id)
    assert remove_garbage(store, garbage) == 0
    assert ladder[3].id in list_ids(store)


def test_what_is_referred_to_while_garbage_is_removed_stays(
    local_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = publish_base(local_store, tmp_path)
    measure(local_store, chosen, 5.0, steps=1)
    delete = LocalStore.delete

    def deletes_beside_a_run(self: LocalStore, key: str) -> None:
        record_run_checkpoint(self, "DistillFlow", "9", 1, chosen.id)
        delete(self, key)

    monkeypatch.setattr(LocalStore, "delete", deletes_beside_a_run)
    collect(local_store)
    assert list_ids(local_store) == [chosen.id]


def age(store: Store, days: float) -> None:
    """Let everything in a local store be that much older."""
    for item in store.list(""):
        os.utime(Path(store.uri, item.key), times=(item.modified_at.timestamp() - days * 86400,) * 2)


def result(*outputs: str) -> bytes:
    """A job's result that refers to these checkpoints."""
    return encode(Holder(keys=tuple(map(checkpoint_key, outputs))))


def test_what_a_young_result_names_stays_and_all_of_it_goes_once_old(local_store: Store, tmp_path: Path) -> None:
    made = publish_student(local_store, tmp_path, publish_base(local_store, tmp_path), steps=4)
    age(local_store, days=8)
    local_store.write("jobs/one/result.json", result(made.id))
    assert find_garbage(local_store).objects == []
    age(local_store, days=8)
    remove_garbage(local_store, find_garbage(local_store))
    assert [item.key for item in local_store.list("")] == ["store.json"]


def test_a_young_measurement_keeps_its_checkpoint(local_store: Store, tmp_path: Path) -> None:
    measured = publish_base(local_store, tmp_path)
    age(local_store, days=8)
    measure(local_store, measured, 5.0, steps=4)
    assert find_garbage(local_store).objects == []


def test_a_result_of_a_checkpoint_that_is_gone_goes(local_store: Store) -> None:
    evaluator, picture = evaluator_key("b" * 64), blob_key("c" * 64)
    local_store.write(evaluator, encode(Holder(keys=())))
    for job, keys in {
        "gone": [checkpoint_key("a" * 64)],
        "measured": [checkpoint_key("a" * 64), evaluator],
        "evaluator": [evaluator],
        "picture-lost": [evaluator, picture],
    }.items():
        local_store.write(job_result_key(job), encode(Holder(keys=tuple(keys))))
    collect(local_store)
    left = [item.key for item in local_store.list("jobs/")]
    assert left == [job_result_key("evaluator"), job_result_key("picture-lost")]


def test_a_job_that_waits_keeps_its_teacher_until_it_is_abandoned(local_store: Store, tmp_path: Path) -> None:
    teacher = publish_base(local_store, tmp_path)
    local_store.write("jobs/one/request.json", result(teacher.id))
    age(local_store, days=8)
    assert find_garbage(local_store).objects == []
    age(local_store, days=30)
    remove_garbage(local_store, find_garbage(local_store))
    assert [item.key for item in local_store.list("")] == ["store.json"]


def test_what_a_killed_check_of_the_store_left_goes(store: Store) -> None:
    store.write("probe/0123", b"probe")
    collect(store)
    assert store.read("probe/0123") is None


def test_what_tells_more_of_a_picture_lives_as_long_as_the_picture(
    store: Store, ladder: list[CheckpointManifest], tmp_path: Path
) -> None:
    pictures = [store.upload(weights_file(tmp_path, seed=seed), blob_key).sha256 for seed in (70, 71, 72, 73)]
    for manifest, picture, sheet in ((ladder[2], *pictures[:2]), (ladder[3], *pictures[2:])):
        measure(store, manifest, 5.0, steps=2, shown=ContactSheet(file=FileDigest(picture, 1), images=1, labels=None))
        store.write(neighbors_key(picture, "all"), encode(Holder(keys=(blob_key(sheet),))))
    collect(store)
    left = [item.key for item in store.list("")]
    assert [neighbors_key(picture, "all") in left for picture in pictures[::2]] == [True, False]
    assert [blob_key(picture) in left for picture in pictures] == [True, True, False, False]


def test_parts_of_a_measurement_that_nobody_goes_on_with_go(store: Store, tmp_path: Path) -> None:
    tensors = store.upload(weights_file(tmp_path, seed=74), blob_key).sha256
    store.write(shard_key("one", range(5000)), encode(Holder(keys=(blob_key(tensors),))))
    remove_garbage(store, find_garbage(store, grace=timedelta(days=7)))
    assert store.read(blob_key(tensors)) is not None
    collect(store)
    assert not list(store.list("evaluation_shards/")) and store.read(blob_key(tensors)) is None


def test_a_sweep_removes_old_folders_with_what_they_hold(tmp_path: Path) -> None:
    for name, age in (("old", 100), ("young", 0), ("old-with-young", 0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(b"w")
        os.utime(tmp_path / name / "weights", times=(time.time() - age,) * 2)
    for name in ("old", "old-with-young"):
        os.utime(tmp_path / name, times=(time.time() - 100,) * 2)
    (tmp_path / "file").write_bytes(b"f")
    os.utime(tmp_path / "file", times=(time.time() - 100,) * 2)
    assert sweep_folder(tmp_path, datetime.now(UTC) - timedelta(seconds=50)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old-with-young", "young"]
