"""A machine whose clock is off by a day: real processes with a shifted clock."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from progdistill.registry.checkpoint import list_ids
from progdistill.registry.gc import find_garbage
from progdistill.store.open import open_store
from tests.faults.publisher import REPOSITORY, publish
from tests.registry.samples import publish_base, weights_file


def shifted(offset: str) -> dict[str, str]:
    """The environment of a process whose clock is off; times of files stay true, as on a file server."""
    package = importlib.util.find_spec("libfaketime")
    assert package is not None and package.submodule_search_locations, "libfaketime is missing: make setup"
    library = Path(package.submodule_search_locations[0], "vendor/libfaketime/src/libfaketime.so.1")
    return {"LD_PRELOAD": str(library), "FAKETIME": offset, "NO_FAKE_STAT": "1", "DONT_FAKE_MONOTONIC": "1"}


@pytest.mark.parametrize("offset", ["-1d", "+1d"])
def test_the_clock_is_really_off(offset: str) -> None:
    program = "import time; print(time.time())"
    clocks = [
        float(subprocess.check_output([sys.executable, "-c", program], env=os.environ | environment))
        for environment in ({}, shifted(offset))
    ]
    assert 86_000 < abs(clocks[1] - clocks[0]) < 87_000


@pytest.mark.parametrize("offset", ["-1d", "+1d"])
@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_checkpoint_is_published_and_read_as_ever(
    kind: str, offset: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    uri = request.getfixturevalue("s3_uri") if kind == "s3" else str(tmp_path / "store")
    status, printed, message = publish(uri, weights_file(tmp_path), **shifted(offset))
    assert status == 0, message
    assert list_ids(open_store(uri)) == printed.split()[:1]


@pytest.mark.parametrize("offset", ["-1d", "+1d"])
@pytest.mark.parametrize("kind", ["local", "s3"])
def test_garbage_collection_sees_true_ages(
    kind: str, offset: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """By this machine's wrong clock the young checkpoint would be a day old, or the old one still young."""
    uri = request.getfixturevalue("s3_uri") if kind == "s3" else str(tmp_path / "store")
    store = open_store(uri)
    publish_base(store, tmp_path)
    program = (
        "import sys; from datetime import timedelta; from progdistill.registry.gc import find_garbage;"
        "from progdistill.store.open import open_store; s = open_store(sys.argv[1]);"
        "print(len(find_garbage(s, grace=timedelta(hours=12)).objects),"
        "len(find_garbage(s, grace=timedelta(seconds=-5)).objects))"
    )
    found = subprocess.check_output(
        [sys.executable, "-c", program, uri], cwd=REPOSITORY, env=os.environ | shifted(offset), text=True
    )
    assert found == "0 2\n"
    assert find_garbage(store).objects == []
