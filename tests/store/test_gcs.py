"""A store on Google Cloud Storage: lost replies, and what a user is told. The contract: test_conformance.py."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from progdistill.errors import TransientError, UsageError
from progdistill.store.base import Store
from progdistill.store.open import open_store
from tests.faults.proxy import Fault, FaultyProxy
from tests.store.s3_server import BUCKET

pytestmark = pytest.mark.slow


@pytest.fixture
def proxy(gcs: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy before the emulator, to which this process's environment leads."""
    with FaultyProxy(gcs) as running:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", running.endpoint)
        yield running


@pytest.fixture
def proxied(proxy: FaultyProxy, request: pytest.FixtureRequest) -> Store:
    """An empty store behind the proxy."""
    return open_store(f"gs://{BUCKET}/{request.node.name.replace('[', '-').replace(']', '')}")


def test_a_reply_lost_after_a_first_write_is_no_conflict(proxied: Store, proxy: FaultyProxy) -> None:
    proxy.faults = [Fault(r"^POST .*upload", lose_reply=True)]
    assert proxied.put_if_absent("a", b"1")
    assert len(proxy.seen(r"^POST .*upload")) == 2
    assert not proxied.put_if_absent("a", b"1")


def test_a_reply_lost_after_a_swap_swaps_once(proxied: Store, proxy: FaultyProxy) -> None:
    proxied.write("a", b"1")
    seen = proxied.read_versioned("a")
    assert seen is not None
    proxy.faults = [Fault(r"^POST .*upload", lose_reply=True)]
    assert proxied.compare_and_swap("a", b"2", seen.version)
    assert not proxied.compare_and_swap("a", b"3", seen.version)
    assert proxied.read("a") == b"2"


def test_a_damaged_upload_is_not_kept_and_passes(proxied: Store, proxy: FaultyProxy) -> None:
    """The metadata come first in the body, the data after them."""
    proxy.faults = [Fault(r"^POST .*upload", flip_request_at=1000)]
    with pytest.raises((TransientError, UsageError), match="cannot write a"):
        proxied.write("a", b"x" * 4000)
    assert proxied.read("a") is None
    proxied.write("a", b"x" * 4000)
    assert proxied.read("a") == b"x" * 4000


def test_a_missing_bucket_is_a_usage_error(proxy: FaultyProxy) -> None:
    with pytest.raises(UsageError, match="create the bucket or fix the --store URI"):
        open_store("gs://nowhere/models").check_writable()


def test_without_the_package_its_extra_is_named() -> None:
    script = "import sys; sys.modules['google.cloud'] = None; from progdistill.store.open import open_store"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; open_store('gs://bucket/models')"], capture_output=True, text=True
    )
    assert "pip install 'progdistill[gcs]'" in done.stderr
