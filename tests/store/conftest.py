"""Stores of all kinds for the conformance suite: a folder, buckets of three S3 servers, one of Google's emulator."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from progdistill.store.base import Store
from progdistill.store.open import open_store
from tests.store.go_servers import running_gcs_emulator, running_go_server
from tests.store.s3_server import BUCKET, uri_at
from tests.store.stores import local_store, s3_endpoint, s3_uri

__all__ = ["local_store", "s3_endpoint", "s3_uri", "store"]

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("minio", "versitygw", "gcs")]


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_go_server("minio", tmp_path_factory.mktemp("minio")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def versitygw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_go_server("versitygw", tmp_path_factory.mktemp("versitygw")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def gcs() -> Iterator[str]:
    with running_gcs_emulator() as endpoint:
        yield endpoint


@pytest.fixture(params=["local", "s3", *SLOW])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store of each kind in turn."""
    if request.param == "local":
        return open_store(str(tmp_path / "store"))
    if request.param == "s3":
        return open_store(request.getfixturevalue("s3_uri"))
    if request.param == "gcs":
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", request.getfixturevalue("gcs"))
        monkeypatch.setenv("PROGDISTILL_CACHE", str(tmp_path / "cache"))
        return open_store(f"gs://{BUCKET}/{uuid.uuid4().hex}")
    return open_store(uri_at(request.getfixturevalue(request.param), tmp_path, monkeypatch))
