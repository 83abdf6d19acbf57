"""Empty stores of both kinds, as fixtures."""

from pathlib import Path

import pytest

from progdistill.store.base import Store
from progdistill.store.open import open_store
from tests.store.s3_server import s3_endpoint, s3_uri

__all__ = ["local_store", "s3_endpoint", "s3_uri", "store"]


@pytest.fixture
def local_store(tmp_path: Path) -> Store:
    """An empty local store."""
    return open_store(str(tmp_path / "store"))


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind in turn."""
    if request.param == "s3":
        return open_store(request.getfixturevalue("s3_uri"))
    return open_store(str(tmp_path / "store"))
