"""Checkpoints are immutable, named by their content, and published once."""

import subprocess
import sys
from pathlib import Path

import pytest

from progdistill.errors import UsageError
from progdistill.registry.checkpoint import (
    CheckpointKind,
    CheckpointRef,
    fetch_weights,
    list_manifests,
    load_manifest,
    publish_checkpoint,
)
from progdistill.store.base import Store
from tests.registry.samples import description, provenance, publish_base, publish_student, weights_file


def test_a_published_checkpoint_is_read_back_whole(store: Store, tmp_path: Path) -> None:
    published = publish_base(store, tmp_path)
    assert load_manifest(store, published.id) == published
    assert fetch_weights(store, published).read_bytes() == weights_file(tmp_path).read_bytes()


def test_the_id_does_not_depend_on_circumstances_and_the_first_manifest_stays(
    local_store: Store, tmp_path: Path
) -> None:
    weights = weights_file(tmp_path)
    first = publish_checkpoint(local_store, weights, description(), provenance(host="one"))
    second = publish_checkpoint(local_store, weights, description(), provenance(minutes=5, host="two"))
    assert second == first
    assert [manifest.provenance.host for manifest in list_manifests(local_store)] == ["one"]


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"prediction": "x"}, {"training": {"updates": 11}}, {"numerics_version": 2}]
)
def test_the_id_depends_on_everything_the_checkpoint_is(
    local_store: Store, tmp_path: Path, change: dict[str, object]
) -> None:
    base = publish_base(local_store, tmp_path)
    other = publish_checkpoint(local_store, weights_file(tmp_path), description(**change), provenance())
    assert other.id != base.id
    assert other.identity.weights == base.identity.weights


def test_a_student_without_teacher_is_no_student() -> None:
    with pytest.raises(ValueError, match="a parent"):
        description(kind=CheckpointKind.STUDENT, sampling_steps=4)


def test_a_reference_is_enough_to_find_the_checkpoint_again(local_store: Store, tmp_path: Path) -> None:
    base = publish_base(local_store, tmp_path)
    student = publish_student(local_store, tmp_path, base, steps=8)
    ref = CheckpointRef.model_validate_json(student.ref(local_store).model_dump_json())
    assert (ref.store, ref.kind, ref.sampling_steps, ref.parent) == (local_store.uri, "student", 8, base.id)
    assert load_manifest(local_store, ref.id) == student


def test_an_unknown_id_is_a_usage_error(local_store: Store) -> None:
    with pytest.raises(UsageError, match="checkpoints list"):
        load_manifest(local_store, "0" * 64)


def test_the_driver_side_imports_neither_torch_nor_boto3() -> None:
    rooms = {
        "registry": "checkpoint runs resolve aliases lineage evaluations gc",
        "store": "open local layout documents",
    }
    imports = ", ".join(f"progdistill.{room}.{name}" for room, names in rooms.items() for name in names.split())
    program = f"import sys, {imports}; print(sorted({{'torch', 'boto3', 'numpy'}} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"
