"""S3 and network failures: transient ones are retried, others are reported, and nothing is lost."""

import signal
from datetime import timedelta
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError

from progdistill.errors import LostInvariantError, TransientError, UsageError
from progdistill.registry.aliases import move_alias, read_alias
from progdistill.registry.checkpoint import (
    CheckpointManifest,
    fetch_weights,
    list_ids,
    load_manifest,
    publish_checkpoint,
)
from progdistill.store.base import Store
from progdistill.store.digest import PART_BYTES
from progdistill.store.failpoints import VARIABLE
from progdistill.store.layout import blob_key
from progdistill.store.open import mark_layout, open_store
from progdistill.store.s3 import S3Store
from tests.faults.proxy import Fault, FaultyProxy, error_answer
from tests.faults.publisher import publish
from tests.registry.samples import description, provenance, weights_file

PARTS = 3
ANY_PART = r"^PUT .*partNumber="


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A weights file of two full parts and a bit."""
    return weights_file(tmp_path, megabytes=2 * PART_BYTES / 1e6 + 0.1)


def put(store: Store, weights: Path) -> CheckpointManifest:
    """Publish the weights as a checkpoint."""
    return publish_checkpoint(store, weights, description(), provenance())


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError")])
def test_requests_to_an_overloaded_server_are_retried(
    proxied: Store, proxy: FaultyProxy, tmp_path: Path, status: int, code: str
) -> None:
    proxy.faults = [Fault(r"^PUT ", times=2, answer=error_answer(status, code))]
    published = put(proxied, weights_file(tmp_path))
    assert proxy.faults[0].times == 0
    assert list_ids(proxied) == [published.id]


def test_a_connection_reset_in_the_middle_of_a_part_costs_only_that_part(
    proxied: Store, proxy: FaultyProxy, weights: Path
) -> None:
    proxy.faults = [Fault(r"partNumber=2\b", reset_request_after=PART_BYTES // 2)]
    published = put(proxied, weights)
    assert len(proxy.seen(r"partNumber=2\b")) == 2
    assert len(proxy.seen(ANY_PART)) == PARTS + 1
    assert fetch_weights(proxied, published).read_bytes() == weights.read_bytes()


def test_a_part_damaged_on_its_way_to_the_server_is_refused_there_and_sent_again(
    proxied: Store, proxy: FaultyProxy, weights: Path
) -> None:
    proxy.faults = [Fault(r"partNumber=2\b", times=2, flip_request_at=5000)]
    published = put(proxied, weights)
    assert len(proxy.seen(r"partNumber=2\b")) == 3
    assert fetch_weights(proxied, published).read_bytes() == weights.read_bytes()


def test_a_truncated_download_costs_only_that_part(proxied: Store, proxy: FaultyProxy, weights: Path) -> None:
    published = put(proxied, weights)
    proxy.requests.clear()
    proxy.faults = [Fault(r"^GET .*/blobs/", times=2, cut_reply_after=100_000)]
    assert fetch_weights(proxied, published).read_bytes() == weights.read_bytes()
    assert len(proxy.seen(r"^GET .*/blobs/")) == PARTS + 2


def test_a_download_damaged_on_its_way_is_fetched_again(proxied: Store, proxy: FaultyProxy, weights: Path) -> None:
    published = put(proxied, weights)
    proxy.requests.clear()
    proxy.faults = [Fault(r"^GET .*/blobs/", flip_reply_at=1000)]
    assert fetch_weights(proxied, published).read_bytes() == weights.read_bytes()
    assert len(proxy.seen(r"^GET .*/blobs/")) == 2 * PARTS


def test_a_download_that_stays_damaged_is_never_handed_out(proxied: Store, proxy: FaultyProxy, tmp_path: Path) -> None:
    published = put(proxied, weights_file(tmp_path))
    proxy.faults = [Fault(r"^GET .*/blobs/", times=9, flip_reply_at=1000)]
    with pytest.raises(LostInvariantError, match="damaged"):
        fetch_weights(proxied, published)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != ".lock"]


def test_a_document_cut_short_is_read_again(proxied: Store, proxy: FaultyProxy, tmp_path: Path) -> None:
    published = put(proxied, weights_file(tmp_path))
    proxy.faults = [Fault(r"^GET .*manifest.json", cut_reply_after=20)]
    assert load_manifest(proxied, published.id) == published


def test_expired_credentials_are_named_and_the_upload_succeeds_after_renewal(
    proxied: S3Store, proxy: FaultyProxy, weights: Path
) -> None:
    proxy.faults = [Fault(r"partNumber=[23]\b", times=2, answer=error_answer(403, "ExpiredToken"))]
    with pytest.raises(UsageError, match="renew the credentials"):
        put(proxied, weights)
    assert list_ids(proxied) == []
    assert unfinished_uploads(proxied) == 0
    proxy.faults = []
    published = put(proxied, weights)
    assert fetch_weights(proxied, published).read_bytes() == weights.read_bytes()


def test_an_upload_whose_process_was_killed_is_repeated_and_its_parts_are_removed(
    proxied: S3Store, weights: Path
) -> None:
    status, _, _ = publish(proxied.uri, weights, **{VARIABLE: "kill:upload.parts"})
    assert status == -signal.SIGKILL
    assert unfinished_uploads(proxied) == 1
    published = put(proxied, weights)
    assert fetch_weights(proxied, published).read_bytes() == weights.read_bytes()
    proxied.sweep(proxied.now() + timedelta(minutes=1))
    assert unfinished_uploads(proxied) == 0


def unfinished_uploads(store: S3Store) -> int:
    """How many multipart uploads the server has for this store."""
    bucket, _, prefix = store.uri.removeprefix("s3://").partition("/")
    listed = boto3.client("s3").list_multipart_uploads(Bucket=bucket, Prefix=prefix)
    return len(listed.get("Uploads", []))


def test_a_reply_lost_after_the_manifest_was_stored_is_no_conflict(
    proxied: Store, proxy: FaultyProxy, tmp_path: Path
) -> None:
    proxy.faults = [Fault(r"^PUT .*manifest.json", lose_reply=True)]
    published = put(proxied, weights_file(tmp_path))
    assert list_ids(proxied) == [published.id]


def test_a_reply_lost_after_an_alias_was_moved_moves_it_once(proxied: Store, proxy: FaultyProxy) -> None:
    move_alias(proxied, "best", "1" * 64, "ann@lab")
    proxy.faults = [Fault(r"^PUT .*aliases/best", lose_reply=True)]
    move_alias(proxied, "best", "2" * 64, "ann@lab")
    alias = read_alias(proxied, "best")
    assert alias is not None
    assert [move.checkpoint_id for move in alias.history] == ["1" * 64, "2" * 64]


@pytest.mark.parametrize("first", [True, False])
def test_a_move_whose_reply_was_lost_undoes_no_later_one(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    store = open_store(s3_uri)
    mark_layout(store)
    if not first:
        move_alias(store, "best", "0" * 64, "ann@lab")
    put = S3Store._put

    def put_and_lose_the_reply(self: S3Store, key: str, data: bytes, **condition: str) -> None:
        """Botocore asks again, and the server says that another mover was there since."""
        put(self, key, data, **condition)
        monkeypatch.setattr(S3Store, "_put", put)
        move_alias(self, "best", "2" * 64, "bob@lab")
        raise ClientError(
            {"Error": {"Code": "PreconditionFailed"}, "ResponseMetadata": {"RetryAttempts": 1}}, "PutObject"
        )

    monkeypatch.setattr(S3Store, "_put", put_and_lose_the_reply)
    assert move_alias(store, "best", "1" * 64, "ann@lab") == read_alias(store, "best")
    alias = read_alias(store, "best")
    assert alias is not None
    assert [move.checkpoint_id for move in alias.history][-2:] == ["1" * 64, "2" * 64]
    assert len(alias.history) == 3 - first


def test_a_server_that_is_gone_is_a_passing_fault(
    proxied: Store, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(TransientError, match="cannot read"):
        open_store(proxied.uri)


def test_a_missing_bucket_is_a_usage_error(proxied: Store) -> None:
    with pytest.raises(UsageError, match="create the bucket"):
        list(open_store("s3://no-such-bucket-here/x").list(""))


def test_denied_access_is_a_usage_error(proxied: Store, proxy: FaultyProxy) -> None:
    proxy.faults = [Fault(r"^PUT ", answer=error_answer(403, "AccessDenied"))]
    with pytest.raises(UsageError, match="lack permission"):
        proxied.check_writable()


def test_a_clock_that_the_server_does_not_accept_is_a_usage_error(proxied: Store, proxy: FaultyProxy) -> None:
    proxy.faults = [Fault(r"^PUT ", answer=error_answer(403, "RequestTimeTooSkewed"))]
    with pytest.raises(UsageError, match="set it"):
        proxied.write("a", b"1")


def test_a_bucket_without_room_is_a_usage_error(proxied: Store, proxy: FaultyProxy) -> None:
    proxy.faults = [Fault(r"^PUT ", answer=error_answer(400, "QuotaExceeded"))]
    with pytest.raises(UsageError, match="free some space"):
        proxied.write("a", b"1")


def test_the_same_file_is_not_sent_twice(proxied: Store, proxy: FaultyProxy, weights: Path) -> None:
    proxied.upload(weights, blob_key)
    proxied.upload(weights, blob_key)
    assert len(proxy.seen(ANY_PART)) == PARTS
