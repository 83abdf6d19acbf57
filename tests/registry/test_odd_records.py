"""A record that cannot be read is named and passed over: it costs no other record, and no run its report."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from progdistill.cli.main import main
from progdistill.errors import LostInvariantError, ProgdistillError
from progdistill.models_base import content_id
from progdistill.registry.aliases import move_alias
from progdistill.registry.checkpoint import CheckpointManifest, TrainingFigures, publish_checkpoint
from progdistill.registry.gc import find_garbage
from progdistill.registry.lineage import draw, lineage_tree
from progdistill.registry.listing import list_checkpoints
from progdistill.registry.openlineage import run_events
from progdistill.registry.runs import record_run_checkpoint
from progdistill.report.lineage_page import lineage_page
from progdistill.run.rates import newest_manifests
from progdistill.store.base import Store
from progdistill.store.documents import REFERENCES, SEAL, unseal
from progdistill.store.layout import blob_key, checkpoint_key
from tests.registry.samples import description, measure, provenance, publish_base, publish_student, weights_file

DEEP = b'{"a":' * 50_000 + b"1" + b"}" * 50_000
ODD: tuple[Any, ...] = (
    None,
    -1,
    "",
    "x" * 300,
    [],
    {},
    [[]],
    {"a": {"b": None}},
    True,
    1e300,
    10**40,
    "2026-01-01T00:00:00",
)


def sealed(facts: dict[str, Any]) -> bytes:
    """A document whose seal matches, as anybody can write one."""
    facts = {name: value for name, value in facts.items() if name != SEAL}
    return json.dumps(facts | {SEAL: content_id(facts)}).encode()


@pytest.fixture
def kept(local_store: Store, tmp_path: Path) -> CheckpointManifest:
    """A measured student with a name, a run and a teacher."""
    base = publish_base(local_store, tmp_path)
    student = publish_student(local_store, tmp_path, base, steps=4)
    record_run_checkpoint(local_store, "DistillFlow", "1", 8, base.id)
    record_run_checkpoint(local_store, "DistillFlow", "1", 4, student.id)
    move_alias(local_store, "best", student.id, "me@here")
    measure(local_store, student, distance=2.0, steps=4)
    figures = TrainingFigures(updates=9, images=90, seconds=3.0, images_per_second=30.0, final_loss=0.5, job="distill")
    publish_checkpoint(local_store, weights_file(tmp_path, 9), description(seed=9), provenance(figures=figures))
    return student


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every value of nested JSON is."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, item in inner for path in paths(item, (*at, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def look_at_everything(store: Store, kept_id: str) -> list[ProgdistillError]:
    """All that reads the records of a store; gives what could not be read."""
    unreadable: list[ProgdistillError] = []
    list_checkpoints(store, unreadable=unreadable)
    list_checkpoints(store, run="DistillFlow/1", unreadable=[])
    tree = lineage_tree(store, None, unreadable)
    list(draw(tree, kept_id))
    lineage_page(store, tree, kept_id)
    newest_manifests(store)
    find_garbage(store, grace=timedelta(0))
    return unreadable


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["checkpoints/", "aliases/", "runs/", "evaluations/"])
def test_no_odd_value_in_a_sealed_record_breaks_what_reads_it(
    prefix: str, local_store: Store, kept: CheckpointManifest
) -> None:
    """Each value of each record in turn is replaced by some odd ones; a manifest gets the id of its odd identity."""
    for item in list(local_store.list(prefix)):
        data = local_store.read(item.key) or b""
        facts = json.loads(data)
        for number, path in enumerate(paths(facts)[1:]):
            for odd in (ODD[number % len(ODD)], ODD[(number + 4) % len(ODD)], ODD[(number + 9) % len(ODD)]):
                changed, key = replaced(facts, path, odd), item.key
                if prefix == "checkpoints/" and path[0] == "identity":
                    changed["id"] = content_id(changed["identity"])
                    key = checkpoint_key(changed["id"])
                local_store.write(key, sealed(changed))
                look_at_everything(local_store, kept.id)
                local_store.delete(key)
        local_store.write(item.key, data)
    assert kept.id in [summary.id for summary in list_checkpoints(local_store)]


@pytest.mark.parametrize("odd", [DEEP, b"", b"[]", b"null", b"\xff", b'{"question": null}'], ids=range(6))
@pytest.mark.parametrize("prefix", ["checkpoints/", "aliases/", "runs/", "evaluations/", "jobs/"])
def test_an_unreadable_record_is_named_and_passed_over(
    prefix: str, odd: bytes, local_store: Store, kept: CheckpointManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {
        "checkpoints/": checkpoint_key("0" * 64),
        "aliases/": "aliases/odd.json",
        "runs/": "runs/DistillFlow/1/2.json",
        "evaluations/": f"evaluations/{kept.id}/odd.json",
        "jobs/": f"jobs/{'0' * 64}/result.json",
    }
    key = places[prefix]
    local_store.write(key, odd)
    unreadable = look_at_everything(local_store, kept.id)
    assert all(key in str(error) for error in unreadable) and (unreadable or prefix == "jobs/")
    for words in (["checkpoints", "list", "--run", "DistillFlow/1"], ["lineage"]):
        assert main([*words, "--store", local_store.uri]) == (0 if prefix == "jobs/" else 1)
        said = capsys.readouterr()
        assert kept.id[:12] in said.out and (key in said.err or prefix == "jobs/")
    assert main(["checkpoints", "show", "best", "--store", local_store.uri]) == (1 if prefix == "aliases/" else 0)
    capsys.readouterr()
    assert main(["checkpoints", "verify", "--store", local_store.uri]) == 1
    said = capsys.readouterr()
    named = "0" * 12 if prefix == "checkpoints/" else key
    assert any(line.startswith(named) and "intact" not in line for line in said.out.splitlines())


def test_a_sealed_record_of_another_form_is_damaged_to_verify(
    local_store: Store, kept: CheckpointManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    (item,) = local_store.list("aliases/")
    facts = unseal(local_store.read(item.key) or b"", where="alias")
    facts["history"][0]["moved_at"] = "2026-01-01T00:00:00"
    local_store.write(item.key, sealed({**facts, REFERENCES: []}))
    assert main(["checkpoints", "verify", "--store", local_store.uri]) == 1
    assert "aliases/best.json  " in (said := capsys.readouterr().out) and "timezone" in said


def test_garbage_collection_keeps_what_a_record_too_deep_to_read_names(
    local_store: Store, kept: CheckpointManifest, tmp_path: Path
) -> None:
    loose = publish_base(local_store, tmp_path, seed=7)
    key = "aliases/deep.json"
    local_store.write(key, DEEP.replace(b"1", json.dumps(loose.id).encode()))
    garbage = {item.key for item in find_garbage(local_store, grace=timedelta(0)).objects}
    assert checkpoint_key(loose.id) not in garbage and blob_key(loose.identity.weights.sha256) not in garbage
    local_store.delete(key)
    assert checkpoint_key(loose.id) in {item.key for item in find_garbage(local_store, grace=timedelta(0)).objects}


def test_garbage_collection_stops_where_a_record_has_no_text_to_look_at(
    local_store: Store, kept: CheckpointManifest
) -> None:
    place = Path(local_store.uri, "aliases/odd.json")
    place.symlink_to("/nowhere")
    with pytest.raises(LostInvariantError, match=r"aliases/odd\.json.*Nothing is collected"):
        find_garbage(local_store)


def test_events_of_a_run_need_no_other_record(local_store: Store, kept: CheckpointManifest) -> None:
    local_store.write("runs/DistillFlow/2/4.json", b"{}")
    assert len(run_events(local_store, "DistillFlow/1")) == 4
