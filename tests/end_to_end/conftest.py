"""One finished run that several tests inspect or continue."""

from pathlib import Path

import pytest

from tests.end_to_end.running import SMALL, run_flow


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with the ladder 4 → 2 → 1; to be read only, since tests share it."""
    folder = tmp_path_factory.mktemp("run")
    done = run_flow(folder, "run", "--ladder", "4:1", *SMALL)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder
