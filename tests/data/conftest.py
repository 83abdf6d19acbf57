"""Prepared datasets for the tests of reading and loading."""

import pytest

from progdistill.data.dataset import DatasetInfo, find_dataset
from progdistill.logs import configure_logging
from tests.store.s3_server import s3_endpoint, s3_uri

__all__ = ["digits", "s3_endpoint", "s3_uri"]


@pytest.fixture(autouse=True, scope="session")
def _log_lines() -> None:
    """Send warnings to standard error, as commands do."""
    configure_logging()


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    """The embedded digits, prepared in a folder of their own."""
    return find_dataset("digits", tmp_path_factory.mktemp("data"))
