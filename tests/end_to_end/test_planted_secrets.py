"""Secrets in the environment of a run stand in nothing that it leaves behind or prints."""

import gzip
import os
import subprocess
import zlib
from contextlib import suppress
from pathlib import Path

import pytest

from tests.end_to_end.running import command, environment

SECRET = "planted-5ecret-value"
PLANTED = (
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "DB_PASS", "PGPASS", "SSH_KEY", "OPENAI_KEY", "HF_TOKEN"),
    *("DATABASE_URL", "METAFLOW_SERVICE_HEADERS", "METAFLOW_SERVICE_AUTH_KEY", "HTTPS_PROXY_PASSWORD"),
)


@pytest.mark.slow
def test_no_output_of_a_run_holds_a_secret_of_its_environment(tmp_path: Path) -> None:
    """Store, job requests, logs, events, reports, cards and Metaflow's artifacts."""
    planted = {name: f"{SECRET}-{name}" for name in PLANTED} | {
        "METAFLOW_SERVICE_HEADERS": f'{{"x-api-key": "{SECRET}"}}'
    }
    words = command("run", "--ladder", "2:1", "--base-updates", "2", "--updates-per-stage", "2")
    done = subprocess.run(
        [*words, "--set", "evaluation.samples=20"],
        cwd=tmp_path,
        env=environment(**planted),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    for kind in ("report.html", "events.jsonl", "manifest.json", "result.json", ".log"):
        assert [path for path in files if path.name.endswith(kind)], kind
    assert [path for path in files if ".metaflow" in path.parts]
    found = [path for path in files if holds(path)]
    assert found == []


def holds(path: Path) -> bool:
    """Whether a file has a secret in it; Metaflow's artifacts are compressed."""
    data = path.read_bytes()
    texts = [data]
    if data[:2] == b"\x1f\x8b":
        texts.append(gzip.decompress(data))
    elif data[:1] == b"\x78":
        with suppress(zlib.error):
            texts.append(zlib.decompress(data))
    return any(SECRET.encode() in text for text in texts)


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(gzip.compress(f"x{SECRET}".encode()))
    (tmp_path / "b").write_text("nothing")
    assert holds(tmp_path / "a") and not holds(tmp_path / "b") and os.listdir(tmp_path)
