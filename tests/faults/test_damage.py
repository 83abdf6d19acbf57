"""Corrupted files and forged documents are detected before anything is parsed."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from progdistill.errors import LostInvariantError, UsageError
from progdistill.models_base import content_id
from progdistill.registry.checkpoint import (
    CheckpointManifest,
    fetch_weights,
    list_manifests,
    load_manifest,
    publish_checkpoint,
)
from progdistill.store.base import Store
from progdistill.store.documents import SEAL
from progdistill.store.failpoints import VARIABLE
from progdistill.store.layout import blob_key, checkpoint_key
from progdistill.store.open import open_store
from tests.faults.publisher import start
from tests.registry.samples import description, provenance, publish_base, weights_file


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind in turn."""
    uri = request.getfixturevalue("s3_uri") if request.param == "s3" else str(tmp_path / "store")
    return open_store(uri)


@pytest.fixture
def published(store: Store, tmp_path: Path) -> CheckpointManifest:
    """A checkpoint in the store."""
    return publish_base(store, tmp_path)


def flip(store: Store, key: str, position: float) -> None:
    """Flip a bit of an object at rest, at a fraction of its length."""
    data = store.read(key)
    assert data is not None
    changed = bytearray(data)
    changed[int(position * (len(data) - 1))] ^= 4
    store.write(key, bytes(changed))


@pytest.mark.parametrize("position", [0.0, 0.5, 1.0])
def test_a_flipped_bit_in_the_weights_is_found(store: Store, published: CheckpointManifest, position: float) -> None:
    flip(store, blob_key(published.identity.weights.sha256), position)
    with pytest.raises(LostInvariantError, match="damaged"):
        fetch_weights(store, published)


def test_publishing_the_same_weights_again_repairs_them(
    store: Store, published: CheckpointManifest, tmp_path: Path
) -> None:
    flip(store, blob_key(published.identity.weights.sha256), 0.5)
    publish_checkpoint(store, weights_file(tmp_path), description(), provenance())
    assert fetch_weights(store, published).read_bytes() == weights_file(tmp_path).read_bytes()


def test_a_damaged_copy_in_the_cache_is_fetched_again(s3_uri: str, tmp_path: Path) -> None:
    store = open_store(s3_uri)
    published = publish_base(store, tmp_path)
    cached = fetch_weights(store, published)
    cached.chmod(0o644)
    cached.write_bytes(b"other bytes")
    assert fetch_weights(store, published).read_bytes() == weights_file(tmp_path).read_bytes()


def test_no_flipped_bit_of_a_manifest_goes_unnoticed(local_store: Store, tmp_path: Path) -> None:
    published = publish_base(local_store, tmp_path)
    key = checkpoint_key(published.id)
    whole = local_store.read(key)
    assert whole is not None
    noticed = 0
    for position in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        local_store.write(key, bytes(changed))
        try:
            assert load_manifest(local_store, published.id) == published
        except (LostInvariantError, UsageError):
            noticed += 1
    assert noticed > len(whole) // 7 * 0.7  # The rest is white space between the facts.


def forge(store: Store, published: CheckpointManifest, change: Callable[[dict[str, Any]], None]) -> None:
    """Replace a manifest by one with changed facts and a seal that fits them."""
    facts = published.model_dump(mode="json")
    change(facts)
    facts[SEAL] = content_id(facts)
    store.write(checkpoint_key(published.id), json.dumps(facts).encode())


def test_a_manifest_of_a_future_version_is_refused_with_advice(store: Store, published: CheckpointManifest) -> None:
    forge(store, published, lambda facts: facts.update(schema_version=3, unheard_of="fact"))
    with pytest.raises(UsageError, match=r"schema version 3; expected 2: upgrade progdistill"):
        load_manifest(store, published.id)


@pytest.mark.parametrize("digest", ["../../../../etc/passwd", "/etc/passwd", "ab/../../x", "A" * 64, ""])
def test_a_manifest_that_points_outside_its_store_is_refused(
    store: Store, published: CheckpointManifest, digest: str
) -> None:
    forge(store, published, lambda facts: facts["identity"]["weights"].update(sha256=digest))
    with pytest.raises(LostInvariantError, match=r"weights\.sha256"):
        load_manifest(store, published.id)


def test_a_manifest_whose_identity_was_changed_is_refused(store: Store, published: CheckpointManifest) -> None:
    forge(store, published, lambda facts: facts["identity"].update(seed=99))
    with pytest.raises(LostInvariantError, match="is not that of its identity"):
        load_manifest(store, published.id)


def test_a_manifest_in_the_place_of_another_is_refused(store: Store, published: CheckpointManifest) -> None:
    data = store.read(checkpoint_key(published.id))
    assert data is not None
    store.write(checkpoint_key("0" * 64), data)
    with pytest.raises(LostInvariantError, match="holds the manifest of"):
        list(list_manifests(store))


def test_a_blob_that_is_a_link_out_of_the_store_is_not_followed(local_store: Store, tmp_path: Path) -> None:
    published = publish_base(local_store, tmp_path)
    blob = Path(local_store.uri, blob_key(published.identity.weights.sha256))
    outside = blob.rename(tmp_path / "outside")
    blob.symlink_to(outside)
    with pytest.raises(LostInvariantError, match="symbolic link"):
        fetch_weights(local_store, published)


@pytest.mark.parametrize("megabytes", [0.3, 5])
def test_weights_whose_file_changes_its_length_while_it_is_copied_are_refused(tmp_path: Path, megabytes: float) -> None:
    weights = weights_file(tmp_path, megabytes=1)
    process = start(str(tmp_path / "store"), weights, **{VARIABLE: f"hold:file.copying:{tmp_path}/go"})
    assert process.stdout is not None
    assert process.stdout.readline() == "reached file.copying\n"
    os.truncate(weights, int(megabytes * 1e6))
    (tmp_path / "go").touch()
    _, message = process.communicate()
    assert (process.returncode, "changed its length" in message) == (1, True)
    assert list(open_store(str(tmp_path / "store")).list("blobs/")) == []
