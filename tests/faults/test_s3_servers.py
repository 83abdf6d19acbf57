"""Servers as they are: what one lacks is named before anything is stored, and nothing recurses or hangs."""

import re
from pathlib import Path

import pytest

from progdistill.cli.main import main
from progdistill.errors import UsageError
from progdistill.store.base import Store
from progdistill.store.open import open_store
from tests.faults.proxy import Fault, FaultyProxy, error_answer
from tests.registry.samples import publish_base

EVERY = 1_000_000
EMPTY_LIST = (
    b"<?xml version='1.0'?><ListBucketResult><Name>stores</Name><KeyCount>0</KeyCount><IsTruncated>false"
    b"</IsTruncated></ListBucketResult>"
)


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    """A reply of a small server."""
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + body


SERVERS = {
    "refuses conditional writes": (
        Fault(r"^PUT \S*/probe/", EVERY, answer=error_answer(501, "NotImplemented")),
        r"NotImplemented\); the server lacks what a store needs",
    ),
    "ignores If-None-Match": (
        Fault(r"^PUT ", EVERY, drop_header="if-none-match"),
        r"lacks conditional writes \(If-None-Match: \*\): an object that exists was replaced",
    ),
    "ignores If-Match": (
        Fault(r"^PUT ", EVERY, drop_header="if-match"),
        r"lacks conditional writes \(If-Match\): an object that others changed was replaced",
    ),
    "drops checksums": (Fault(r"^PUT ", EVERY, drop_header="x-amz-checksum-sha256"), "lacks SHA-256 checksums"),
    "lists late": (
        Fault(
            r"^GET \S*list-type=2\S*probe", EVERY, answer=answer("200 OK", EMPTY_LIST, "Content-Type: application/xml")
        ),
        "lacks listing at once what was written",
    ),
    "reads late": (
        Fault(r"^GET \S*/probe/", EVERY, answer=error_answer(404, "NoSuchKey")),
        "lacks reading at once what was written",
    ),
    "removes late": (Fault(r"^DELETE ", EVERY, answer=answer("204 No Content")), "lacks removal at once"),
    "redirects to https": (
        Fault(r"", EVERY, answer=answer("301 Moved Permanently", b"", "Location: https://127.0.0.1:1/")),
        r"redirects to https://127\.0\.0\.1:1/: set AWS_ENDPOINT_URL_S3",
    ),
    "redirects without a region": (
        Fault(r"", EVERY, answer=error_answer(301, "PermanentRedirect")),
        "redirects to another address: set AWS_ENDPOINT_URL_S3 .* or AWS_REGION",
    ),
    "redirects for a while": (
        Fault(r"", EVERY, answer=error_answer(307, "TemporaryRedirect")),
        "redirects to another address",
    ),
    "is a page to sign in": (
        Fault(r"", EVERY, answer=answer("200 OK", b"<html><body>Sign in</body>", "Content-Type: text/html")),
        "does not answer as S3 does",
    ),
    "is something else": (Fault(r"", EVERY, answer=answer("200 OK", b"\x00\xff{}")), "does not answer as S3 does"),
}


@pytest.mark.parametrize("server", SERVERS)
def test_doctor_names_what_a_server_lacks(
    server: str, proxied: Store, proxy: FaultyProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    fault, message = SERVERS[server]
    proxy.faults.append(Fault(**vars(fault)))
    assert main(["doctor", "--store", proxied.uri]) == 1
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "writable" in line]
    assert re.search(message, said), said
    assert len(proxy.requests) < 40


@pytest.mark.parametrize("server", ["ignores If-None-Match", "drops checksums", "refuses conditional writes"])
def test_the_first_write_refuses_a_server_that_cannot_hold_a_store(
    server: str, proxied: Store, proxy: FaultyProxy, tmp_path: Path
) -> None:
    fault, message = SERVERS[server]
    proxy.faults.append(Fault(**vars(fault)))
    with pytest.raises(UsageError, match=message):
        publish_base(proxied, tmp_path)
    proxy.faults.clear()
    assert [item.key for item in proxied.list("") if not item.key.startswith("probe/")] == []


def test_a_good_server_is_proved_with_few_requests_and_nothing_is_left(
    proxied: Store, proxy: FaultyProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--store", proxied.uri]) == 0
    assert "proved: conditional writes" in capsys.readouterr().out
    assert len(proxy.requests) < 25
    assert list(proxied.list("")) == []


def test_a_password_in_the_address_of_a_server_is_not_printed(s3_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://me:planted-password@127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(Exception, match="127.0.0.1:1") as refused:
        open_store(s3_uri)
    assert "planted-password" not in str(refused.value)
