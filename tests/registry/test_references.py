"""A reference finds one checkpoint, or gives a helpful message."""

import itertools
from pathlib import Path

import pytest

from progdistill.errors import LostInvariantError, UsageError
from progdistill.registry.aliases import check_alias_name, list_aliases, move_alias, read_alias
from progdistill.registry.checkpoint import CheckpointIdentity, CheckpointManifest, publish_checkpoint
from progdistill.registry.resolve import resolve_reference
from progdistill.registry.runs import record_run_checkpoint, run_checkpoints
from progdistill.store.base import Store
from progdistill.store.digest import digest_of_file
from tests.registry.samples import description, provenance, publish_base, publish_student, weights_file


@pytest.fixture
def student(local_store: Store, tmp_path: Path) -> CheckpointManifest:
    """A student of 4 steps that run DistillFlow/7 holds, beside its teacher."""
    student = publish_student(local_store, tmp_path, publish_base(local_store, tmp_path), steps=4)
    record_run_checkpoint(local_store, "DistillFlow", "7", 4, student.id)
    return student


def test_id_prefix_alias_and_run_all_find_the_checkpoint(local_store: Store, student: CheckpointManifest) -> None:
    move_alias(local_store, "digits/4-step", student.id, "ann@lab")
    for text in (student.id, student.id[:8], "digits/4-step", "DistillFlow/7/4"):
        assert resolve_reference(local_store, text) == student


def test_an_ambiguous_prefix_lists_the_candidates(local_store: Store, tmp_path: Path) -> None:
    weights = weights_file(tmp_path)
    blob = digest_of_file(weights)
    seeds: dict[str, int] = {}
    for seed in itertools.count():
        identity = CheckpointIdentity(**dict(description(seed=seed)), weights=blob)
        other = seeds.setdefault(identity.id[:4], seed)
        if other != seed:
            break
    pair = [publish_checkpoint(local_store, weights, description(seed=each), provenance()) for each in (seed, other)]
    with pytest.raises(UsageError, match="ambiguous") as caught:
        resolve_reference(local_store, pair[0].id[:4])
    assert all(manifest.id[:16] in str(caught.value) for manifest in pair)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("bst", "did you mean best"),
        ("0123abcd", "checkpoints list"),
        ("DistillFlow/7/2", "has them at 4"),
        ("DistillFlow/8/4", "did you mean DistillFlow/7"),
        ("../../etc", "did you mean best"),
    ],
)
def test_an_unknown_reference_says_what_is_near(
    local_store: Store, student: CheckpointManifest, text: str, hint: str
) -> None:
    move_alias(local_store, "best", student.id, "ann@lab")
    with pytest.raises(UsageError, match=hint):
        resolve_reference(local_store, text)


def test_an_alias_keeps_its_history(store: Store) -> None:
    for number in (1, 2):
        move_alias(store, "best", f"{number}" * 64, f"user{number}@lab")
    removed = move_alias(store, "best", None, "ann@lab")
    assert [move.checkpoint_id for move in removed.history] == ["1" * 64, "2" * 64, None]
    assert read_alias(store, "best") == removed
    assert [alias.name for alias in list_aliases(store)] == ["best"]


def test_a_removed_alias_names_nothing(local_store: Store, student: CheckpointManifest) -> None:
    move_alias(local_store, "best", student.id, "ann@lab")
    move_alias(local_store, "best", None, "ann@lab")
    with pytest.raises(UsageError, match="not a checkpoint id"):
        resolve_reference(local_store, "best")


@pytest.mark.parametrize("name", ["abcd", "0123456789", "a/b/4", "", "-x", "a b", "x/../y"])
def test_alias_names_that_read_as_something_else_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="alias"):
        check_alias_name(name)


def test_a_run_lists_its_stages_by_falling_steps(local_store: Store) -> None:
    for steps in (4, 16, 8):
        record_run_checkpoint(local_store, "DistillFlow", "1", steps, f"{steps:064x}")
    assert run_checkpoints(local_store, "DistillFlow", "1") == {s: f"{s:064x}" for s in (16, 8, 4)}


def test_a_runs_stage_is_made_once(local_store: Store) -> None:
    record_run_checkpoint(local_store, "DistillFlow", "1", 8, "1" * 64)
    record_run_checkpoint(local_store, "DistillFlow", "1", 8, "1" * 64)
    with pytest.raises(LostInvariantError, match="already has"):
        record_run_checkpoint(local_store, "DistillFlow", "1", 8, "2" * 64)
