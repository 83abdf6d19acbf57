"""The exit handler of scheduled runs."""

import http.server
import json
import threading
from pathlib import Path

import pytest

from progdistill.run.require_report import WEBHOOK_VARIABLE, main
from progdistill.store.layout import report_key
from progdistill.store.open import open_store


def test_a_run_with_its_report_passes(tmp_path: Path) -> None:
    open_store(str(tmp_path)).write(report_key("DistillFlow", "argo-7"), b"<html>")
    assert main(["--run", "DistillFlow/argo-7", "--store", json.dumps(str(tmp_path))]) == 0


def test_a_run_without_one_fails_and_notifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    received: list[dict[str, str]] = []

    class Webhook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Webhook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(WEBHOOK_VARIABLE, f"http://127.0.0.1:{server.server_port}/secret")
        status = main(["--run", "DistillFlow/argo-7", "--store", str(tmp_path), "--status", "Succeeded"])
        server.shutdown()
    assert status == 1
    (message,) = received
    assert "DistillFlow/argo-7 ended (Succeeded) without a report" in message["text"]
    assert "secret" not in capsys.readouterr().err


def test_a_webhook_that_is_away_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(WEBHOOK_VARIABLE, "http://127.0.0.1:1/secret")
    assert main(["--run", "DistillFlow/argo-7", "--store", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert "without a report" in err and "could not be notified" in err and "secret" not in err
