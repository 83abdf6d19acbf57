"""Logs and watches over real HTTP, with responses that end early."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from kubernetes import client

from progdistill.jobs.events import ignore
from progdistill.jobs.kubernetes.api import ClusterApi
from progdistill.jobs.kubernetes.log import PodLog
from progdistill.jobs.kubernetes.watch import WatchCache
from progdistill.jobs.local import JobLog

LINES = b"""\
2026-01-01T00:00:09.000000002Z epoch 1
2026-01-01T00:00:09.000000002Z epoch 1
2026-01-01T00:00:09.000000001Z error: --set cluster.image is wrong, \xce\xa9
2026-01-01T00:00:10.000000000Z twice
2026-01-01T00:00:10.000000000Z twice
2026-01-01T00:00:10.000000000Z once
"""


@contextmanager
def answering(*answers: Sequence[bytes]) -> Iterator[tuple[ClusterApi, list[str]]]:
    """A server whose answers end properly after these chunks, the last one again and again; its requests.

    Of a log it sends, as a kubelet does, the lines from `sinceTime` on: each by its own time stamp.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.path)
            since = parse_qs(urlsplit(self.path).query).get("sinceTime", [""])[0].rstrip("Z")
            chunks = answers[min(len(asked), len(answers)) - 1]
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for chunk in chunks:
                kept = b"".join(line for line in chunk.splitlines(keepends=True) if line.decode("latin1") >= since)
                if kept:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(kept), kept))
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, format: str, *args: object) -> None:
            """The requests are a list."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        configuration = client.Configuration(host=f"http://127.0.0.1:{server.server_port}")
        configuration.retries = False
        api = ClusterApi(client.ApiClient(configuration), "default", 5.0)
        yield api, asked
        api.closed.set()
        server.shutdown()


def followed(folder: Path, *answers: Sequence[bytes], ended_after: int = 0) -> list[str]:
    """What is written of a log that is answered so, by a container that ends after so many reads."""
    with answering(*answers) as (api, asked):
        log = PodLog(api, "pod", JobLog(folder / "job.log", ignore), lambda: len(asked) >= ended_after)
        log.join(200)
        assert log.error is None and list(log.last) == log_lines(folder)
    return log_lines(folder)


def log_lines(folder: Path) -> list[str]:
    return (folder / "job.log").read_text().splitlines()


TEXTS = [line.partition(" ")[2] for line in LINES.decode().splitlines()]


def test_lines_out_of_the_order_of_their_time_stamps_are_all_shown(tmp_path: Path) -> None:
    assert followed(tmp_path, [LINES]) == TEXTS


def test_an_answer_that_ends_properly_within_any_line_loses_and_repeats_nothing(tmp_path: Path) -> None:
    cuts = [10, 45, 78, 100, 153, len(LINES) - 1]
    answers = [[LINES[:cut]] for cut in cuts]
    assert followed(tmp_path, *answers, [LINES], ended_after=len(cuts)) == TEXTS


def test_an_answer_cut_after_the_container_has_ended_loses_nothing(tmp_path: Path) -> None:
    assert followed(tmp_path, [LINES[:100]], [LINES[:120]], [LINES]) == TEXTS


def test_a_last_line_without_an_end_is_shown_once(tmp_path: Path) -> None:
    assert followed(tmp_path, [LINES + b"2026-01-01T00:00:11Z bye"]) == [*TEXTS, "bye"]


def test_a_log_that_was_rotated_between_two_reads_goes_on(tmp_path: Path) -> None:
    rest = LINES[LINES.index(b"2026-01-01T00:00:10") :]
    newer = rest + b"2026-01-01T00:00:11Z new\n"
    assert followed(tmp_path, [LINES], [newer], ended_after=2) == [*TEXTS, "new"]


def test_a_clock_that_is_set_back_loses_and_repeats_nothing(tmp_path: Path) -> None:
    later = LINES + b"2026-01-01T00:00:01Z set back\n"
    latest = later + b"2026-01-01T00:00:02Z after\n"
    assert followed(tmp_path, [later], [latest], ended_after=2) == [*TEXTS, "set back", "after"]


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (b"unable to retrieve container logs for containerd://1", "pod: its node no longer has the log"),
        (b"failed to watch file: too many open files", "pod: failed to watch file: too many open files"),
    ],
)
def test_what_the_kubelet_says_itself_is_shown_once_and_is_no_line_of_the_job(
    said: bytes, line: str, tmp_path: Path
) -> None:
    with answering([said]) as (api, asked):
        log = PodLog(api, "pod", JobLog(tmp_path / "job.log", ignore), lambda: len(asked) >= 2)
        log.join(200)
    assert log_lines(tmp_path) == [line] and not log.last


def test_the_log_of_a_lost_node_fails_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("progdistill.jobs.kubernetes.log.NODE_SECONDS", 1.0)
    with answering([LINES]) as (api, _):
        pass  # nothing answers there any more
    api.closed.clear()
    log = PodLog(api, "pod", JobLog(tmp_path / "job.log", ignore), lambda: True)
    log.join(200)
    assert log.error is None
    assert "the rest of the log of pod is lost" in log_lines(tmp_path)[-1]


def test_what_breaks_a_log_unforeseen_ends_the_wait_with_a_message(tmp_path: Path) -> None:
    def breaks() -> bool:
        raise KeyError("uid")

    with answering([LINES]) as (api, _):
        log = PodLog(api, "pod", JobLog(tmp_path / "job.log", ignore), breaks)
        log.join(200)
    assert "following the log of pod" in str(log.error) and "attach to it" in str(log.error)


def test_a_watch_cut_within_a_character_is_begun_anew() -> None:
    listing = json.dumps({"items": [], "metadata": {"resourceVersion": "1"}}).encode()
    pod = {"type": "ADDED", "object": {"metadata": {"uid": "u", "annotations": {"a": "Ω"}}}}
    event = json.dumps(pod, ensure_ascii=False).encode()
    cut = event[: event.index("Ω".encode()) + 1]
    changed = threading.Event()
    with answering([listing], [cut], [listing], [event + b"\n"]) as (api, _):
        watched = WatchCache(api, "/pods", "x=y", changed)
        while not watched.present():
            assert watched.error is None and changed.wait(200)
            changed.clear()


def test_a_watch_that_breaks_unforeseen_ends_the_wait_with_a_message() -> None:
    changed = threading.Event()
    with answering([b'{"metadata": {}}']) as (api, _):
        watched = WatchCache(api, "/pods", "x=y", changed)
        assert changed.wait(200)
    assert "watching /pods failed with KeyError" in str(watched.error)
