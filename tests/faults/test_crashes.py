"""kill -9 at any point of a publication, and concurrent publishers: the store stays consistent."""

import os
import signal
from pathlib import Path

import pytest

from progdistill.registry.checkpoint import fetch_weights, list_manifests
from progdistill.store.base import Store
from progdistill.store.failpoints import VARIABLE
from progdistill.store.open import open_store
from tests.faults.publisher import publish, start
from tests.registry.samples import weights_file

LOCAL_POINTS = (
    "file.copying",
    "file.copied",
    "file.synced",
    "file.published",
    "object.written",
    "object.synced",
    "object.published",
)
"""Every point of a publication into a local store, in order of first passage."""

S3_POINTS = ("upload.created", "upload.part", "upload.parts", "upload.completed", "object.put")
"""Every point of a publication into an S3 store, in order of first passage."""

OBJECTS = (1, 3, 4)
"""Of the proof that this can be a store, whose objects are 1 and 2; then the layout and the manifest."""

MEGABYTES = 17
"""Enough for a second part."""


def assert_whole(store: Store, weights: Path) -> None:
    """Every checkpoint that is there has its weights."""
    for manifest in list_manifests(store):
        assert fetch_weights(store, manifest).read_bytes() == weights.read_bytes()


def assert_survives_a_crash(uri: str, weights: Path, point: str) -> None:
    """A publisher killed at `point` leaves a whole store, in which the next one succeeds."""
    status, printed, _ = publish(uri, weights, **{VARIABLE: f"kill:{point}"})
    assert (status, printed) == (-signal.SIGKILL, "")
    assert_whole(open_store(uri), weights)
    status, printed, message = publish(uri, weights)
    assert status == 0, message
    assert [manifest.id for manifest in list_manifests(open_store(uri))] == printed.split()[:1]
    assert_whole(open_store(uri), weights)


@pytest.mark.parametrize("point", [f"{p}@{n}" for p in LOCAL_POINTS for n in OBJECTS if n == 1 or p[0] == "o"])
def test_a_local_publication_killed_anywhere_is_all_or_nothing(tmp_path: Path, point: str) -> None:
    assert_survives_a_crash(str(tmp_path / "store"), weights_file(tmp_path), point)


@pytest.mark.parametrize("point", [*S3_POINTS, "upload.part@2", "object.put@3", "object.put@4"])
def test_a_publication_to_s3_killed_anywhere_is_all_or_nothing(s3_uri: str, tmp_path: Path, point: str) -> None:
    assert_survives_a_crash(s3_uri, weights_file(tmp_path, megabytes=MEGABYTES), point)


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_two_publishers_at_once_give_one_checkpoint(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    uri = request.getfixturevalue("s3_uri") if kind == "s3" else str(tmp_path / "store")
    weights = weights_file(tmp_path, megabytes=MEGABYTES)
    processes = [start(uri, weights, host=f"host{number}") for number in range(2)]
    results = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    (manifest,) = list_manifests(open_store(uri))
    assert {printed.strip() for printed, _ in results} == {f"{manifest.id} {manifest.provenance.host}"}
    assert_whole(open_store(uri), weights)


def test_what_a_crash_left_is_swept(tmp_path: Path) -> None:
    uri, weights = str(tmp_path / "store"), weights_file(tmp_path)
    publish(uri, weights, **{VARIABLE: "kill:file.copied"})
    store = open_store(uri)
    assert len(os.listdir(store.scratch())) == 1
    assert store.sweep(store.now()) == 1
    assert os.listdir(store.scratch()) == []
