"""One example report, built once for all tests that only read it."""

from pathlib import Path

import pytest

from progdistill.report.build import build_report
from tests.report.runs import example_run


@pytest.fixture(scope="session")
def built_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the example run's report; tests that change its folder copy it first."""
    return build_report(example_run(), tmp_path_factory.mktemp("report"))
