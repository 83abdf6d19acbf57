"""Training state survives its process, bit for bit, at any world size."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from progdistill.errors import UsageError
from progdistill.store.base import Store
from progdistill.store.digest import FileDigest
from progdistill.store.documents import encode, read_record
from progdistill.training.snapshots import (
    FlatSlice,
    ShardFacts,
    Snapshot,
    SnapshotWriter,
    delete_snapshots,
    latest_snapshot,
)

JOB = "job-1"


def state(update: int) -> dict[str, Tensor]:
    """Weights and optimizer state of several types and shapes, a function of the update."""
    generator = torch.Generator().manual_seed(update)
    return {
        "weight": torch.randn(32, 3, 3, 3, generator=generator),
        "moment": torch.randn(100, generator=generator).bfloat16(),
        "step": torch.tensor(float(update)),
        "counts": torch.arange(update + 1),
    }


def assert_holds(snapshot: Snapshot, wanted: dict[str, Tensor]) -> None:
    """The snapshot has these tensors, with the same types and bits."""
    for name, tensor in wanted.items():
        found = snapshot.read(name, 0, tensor.numel())
        assert found.dtype == tensor.dtype
        assert torch.equal(found.view(tensor.shape), tensor)


def test_the_newest_snapshot_comes_back_bit_for_bit(store: Store) -> None:
    writer = SnapshotWriter(store, JOB)
    for update in (10, 20):
        writer.save(update, state(update), {"images": 64 * update})
    writer.wait()
    found = latest_snapshot(store, JOB)
    assert found is not None
    assert (found.update, found.facts) == (20, {"images": 1280})
    assert_holds(found, state(20))


def test_training_may_go_on_while_a_snapshot_is_written(local_store: Store) -> None:
    writer, tensors = SnapshotWriter(local_store, JOB), state(10)
    writer.save(10, tensors, {})
    for tensor in tensors.values():
        tensor.zero_()
    writer.wait()
    found = latest_snapshot(local_store, JOB)
    assert found is not None
    assert_holds(found, state(10))


def test_a_job_without_snapshots_has_none(local_store: Store) -> None:
    assert latest_snapshot(local_store, JOB) is None


def test_only_the_last_ones_are_kept(store: Store) -> None:
    writer = SnapshotWriter(store, JOB, keep=2)
    for update in (10, 20, 30):
        writer.save(update, state(1), {})
    writer.wait()
    updates = {item.key.split("/")[2][:12] for item in store.list("snapshots/")}
    assert updates == {"000000000020", "000000000030"}
    delete_snapshots(store, JOB)
    assert list(store.list("snapshots/")) == []


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_damaged_newest_snapshot_gives_way_to_the_one_before(
    local_store: Store, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    writer = SnapshotWriter(local_store, JOB)
    for update in (10, 20):
        writer.save(update, state(update), {})
    writer.wait()
    newest = max(item.key for item in local_store.list("snapshots/") if item.key.endswith(suffix))
    path = Path(local_store.uri, newest)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    found = latest_snapshot(local_store, JOB)
    assert found is not None
    assert found.update == 10
    assert_holds(found, state(10))
    assert "is skipped" in caplog.text


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("keep", [1, 2])
def test_training_that_resumed_before_damaged_snapshots_keeps_its_own_and_loses_those(
    local_store: Store, keep: int, world_size: int
) -> None:
    save_each(local_store, (80, 90, 100), world_size=world_size, keep=keep, attempt="a")
    for path in Path(local_store.uri, "snapshots").rglob("*.safetensors"):
        path.write_bytes(b"damaged")
    assert latest_snapshot(local_store, JOB) is None
    for update in (10, 20, 30):
        save_each(local_store, (update,), world_size=world_size, keep=keep, attempt="b")
        found = latest_snapshot(local_store, JOB)
        assert found is not None and found.update == update
    left = {item.key.split("/")[2] for item in local_store.list("snapshots/")}
    assert left == {f"{update:012d}-b" for update in (20, 30)[-keep:]}


def save_each(store: Store, updates: tuple[int, ...], *, world_size: int, keep: int, attempt: str) -> None:
    """Save snapshots after these updates, the first rank's piece first."""
    for update in updates:
        for rank in range(world_size):
            writer = SnapshotWriter(store, JOB, keep=keep, rank=rank, world_size=world_size, attempt=attempt)
            writer.save(update, state(update), {})
            writer.wait()
    first = SnapshotWriter(store, JOB, keep=keep, world_size=world_size, attempt=attempt)
    first.save(updates[-1], state(updates[-1]), {})  # Only the first rank prunes.
    first.wait()


def test_what_others_put_beside_snapshots_stays_and_disturbs_nothing(local_store: Store) -> None:
    for name in ("README", "notes/to-self.json", "000000000001-a/README"):
        local_store.write(f"snapshots/{JOB}/{name}", b"notes")
    save_each(local_store, (10, 20, 30), world_size=1, keep=1, attempt="a")
    names = {item.key.split("/")[2] for item in local_store.list("snapshots/")}
    assert names == {"README", "notes", "000000000001-a", "000000000030-a"}


def test_a_snapshot_that_one_rank_has_not_finished_does_not_exist(local_store: Store) -> None:
    save_on(local_store, world_size=2, update=10, attempt="a")
    first = SnapshotWriter(local_store, JOB, rank=0, world_size=2, attempt="a")
    first.save(20, state(20), {})
    first.wait()
    found = latest_snapshot(local_store, JOB)
    assert found is not None
    assert found.update == 10


def test_pieces_of_different_launches_never_mix(local_store: Store) -> None:
    for rank, attempt in ((0, "a"), (1, "b")):
        writer = SnapshotWriter(local_store, JOB, rank=rank, world_size=2, attempt=attempt)
        writer.save(10, state(10), {})
        writer.wait()
    assert latest_snapshot(local_store, JOB) is None


def save_on(store: Store, *, world_size: int, update: int, attempt: str) -> Tensor:
    """Save replicated state and one flat tensor of 1,000 elements split over `ranks`; return the flat one."""
    flat = torch.arange(1000, dtype=torch.float32) * update
    bounds = [1000 * rank // world_size for rank in range(world_size + 1)]
    for rank in range(world_size):
        writer = SnapshotWriter(store, JOB, rank=rank, world_size=world_size, attempt=attempt)
        piece = FlatSlice(flat[bounds[rank] : bounds[rank + 1]], bounds[rank], 1000)
        writer.save(update, state(update), {}, flat={"flat": piece})
        writer.wait()
    return flat


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("resumed_on", [1, 2, 4])
def test_a_snapshot_of_any_world_resumes_on_any_other(local_store: Store, world_size: int, resumed_on: int) -> None:
    flat = save_on(local_store, world_size=world_size, update=10, attempt="a")
    found = latest_snapshot(local_store, JOB)
    assert found is not None
    assert_holds(found, state(10) | {"flat": flat})
    length = 1000 // resumed_on
    pieces = [found.read("flat", rank * length, length) for rank in range(resumed_on)]
    assert torch.equal(torch.cat(pieces), flat)


def test_each_replicated_tensor_is_written_once(local_store: Store) -> None:
    save_on(local_store, world_size=3, update=10, attempt="a")
    shards = [item.size_bytes for item in local_store.list("snapshots/") if item.key.endswith(".safetensors")]
    whole = sum(tensor.nbytes for tensor in state(10).values()) + 4000
    assert whole < sum(shards) < whole + 3 * 500


def test_a_snapshot_that_cannot_be_written_is_reported_and_training_continues(
    local_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    writer = SnapshotWriter(local_store, JOB)
    writer.save(10, state(10), {})
    writer.wait()
    job_folder = Path(local_store.uri, "snapshots", JOB)
    aside = job_folder.rename(job_folder.with_name("aside"))
    job_folder.write_text("in the way")
    writer.save(20, state(20), {})
    with pytest.raises(UsageError, match="cannot store"):
        writer.wait()
    assert "was not written" in caplog.text
    job_folder.unlink()
    aside.rename(job_folder)
    writer.save(30, state(30), {})
    writer.wait()
    found = latest_snapshot(local_store, JOB)
    assert found is not None
    assert found.update == 30


def test_a_snapshot_that_was_replaced_while_it_was_opened_gives_way_to_the_new_one(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker of the job goes on meanwhile: it writes newer ones, and removes those that were listed."""
    writer = SnapshotWriter(local_store, JOB, keep=1)
    writer.save(10, state(10), {})
    writer.wait()
    download = type(local_store).download

    def late(self: Store, key: str, expected: FileDigest) -> Path:
        monkeypatch.undo()
        writer.save(20, state(20), {})
        writer.wait()
        return download(self, key, expected)

    monkeypatch.setattr(type(local_store), "download", late)
    found = latest_snapshot(local_store, JOB)
    assert found is not None and found.update == 20
    assert_holds(found, state(20))


def test_a_snapshot_that_is_removed_while_it_is_read_can_be_read_to_its_end(local_store: Store) -> None:
    writer = SnapshotWriter(local_store, JOB)
    writer.save(10, state(10), {})
    writer.wait()
    found = latest_snapshot(local_store, JOB)
    delete_snapshots(local_store, JOB)
    assert found is not None
    assert_holds(found, state(10))


@pytest.mark.parametrize("lie", ["no safetensors", "a missing tensor", "another size"])
def test_a_snapshot_whose_header_lies_gives_way_to_the_one_before(
    lie: str, local_store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its document is intact and states the file's digest."""
    writer = SnapshotWriter(local_store, JOB)
    for update in (10, 20):
        writer.save(update, state(update), {})
    writer.wait()
    key = max(item.key for item in local_store.list("snapshots/") if item.key.endswith(".json"))
    document = read_record(local_store, key, ShardFacts)
    assert document is not None
    file, tensors = (
        tmp_path / "lying.safetensors",
        {name: torch.zeros(piece.length) for name, piece in document.slices.items()},
    )
    if lie == "a missing tensor":
        tensors.popitem()
    if lie == "another size":
        tensors[next(iter(tensors))] = torch.zeros(1, 2, 3)
    save_file(tensors, file)
    if lie == "no safetensors":
        file.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    digest = local_store.upload(file, lambda _: key.removesuffix("json") + "safetensors")
    local_store.write(key, encode(document.model_copy(update={"tensors": digest})))
    found = latest_snapshot(local_store, JOB)
    assert found is not None and found.update == 10
    assert "is not the shard that its document describes" in caplog.text
