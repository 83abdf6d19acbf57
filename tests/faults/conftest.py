"""Stores, and a real S3 server behind a proxy that injects faults."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from progdistill.store.base import Store
from progdistill.store.open import open_store
from tests.faults.proxy import FaultyProxy
from tests.store.s3_server import s3_endpoint, s3_uri

__all__ = ["local_store", "proxied", "proxy", "s3_endpoint", "s3_uri"]


@pytest.fixture
def local_store(tmp_path: Path) -> Store:
    """An empty local store."""
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FaultyProxy]:
    """A proxy before the S3 server, without faults until a test adds some."""
    with FaultyProxy(s3_endpoint) as running:
        yield running


@pytest.fixture
def proxied(s3_uri: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty S3 store that is reached through the proxy."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
    return open_store(s3_uri)
