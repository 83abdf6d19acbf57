"""Records that are published once: the first stays, as long as it can be read."""

import pytest

from progdistill.registry.runs import RunCheckpoint
from progdistill.store.base import Store
from progdistill.store.documents import encode, publish_record, read_record

KEY = "runs/F/1/4.json"


def entry(checkpoint: str) -> RunCheckpoint:
    """A small record."""
    return RunCheckpoint(flow="F", run_id="1", sampling_steps=4, checkpoint_id=checkpoint * 64)


def test_the_first_record_stays(store: Store) -> None:
    assert publish_record(store, KEY, entry("a")) == entry("a")
    assert publish_record(store, KEY, entry("b")) == entry("a")
    assert store.read(KEY) == encode(entry("a"))


@pytest.mark.parametrize("damage", [b"{", b"{}", encode(entry("a")).replace(b"1", b"2")])
def test_a_damaged_record_is_replaced(store: Store, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    store.write(KEY, damage)
    assert publish_record(store, KEY, entry("a")) == entry("a")
    assert read_record(store, KEY, RunCheckpoint) == entry("a")
    assert f"{KEY} is damaged: replaced" in caplog.text
