"""`progdistill doctor` reports everything it found, whatever is wrong."""

import json
from pathlib import Path

import pytest

from progdistill.cli import doctor
from progdistill.cli.main import main


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROGDISTILL_DATA", "data")
    monkeypatch.delenv("PROGDISTILL_STORE", raising=False)
    monkeypatch.setenv("KUBECONFIG", "none")
    return tmp_path


def test_a_store_may_be_new(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--store", "new"]) == 0
    assert json.loads(capsys.readouterr().out)["store"]["writable"] == "yes"


@pytest.mark.parametrize("uri", ["/proc/x", "/etc/passwd", "/dev/null/x", "", "ftp://host/x", "s3:///x"])
def test_a_store_that_cannot_be_used_hides_nothing_else(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--store", uri]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["store"]["uri"] == uri and found["store"]["writable"].startswith("no: ")
    assert any(word in found["store"]["writable"] for word in ("give", "choose"))
    assert found["datasets"]["digits"].startswith("ready") and found["cluster"] and found["torch"]


def test_a_broken_defaults_file_hides_nothing_else(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "progdistill.toml").write_text("store = ")
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "writable: no: progdistill.toml is not valid TOML" in said and "digits: ready" in said


def test_a_data_folder_that_cannot_be_used_hides_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROGDISTILL_DATA", "/dev/null/x")
    assert main(["doctor"]) == 0
    assert "digits: missing: " in capsys.readouterr().out


def test_fix_creates_the_store_and_removes_a_broken_link(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "runs").mkdir()
    (work / "runs" / "latest").symlink_to("gone")
    assert main(["doctor", "--fix", "--store", "new"]) == 0
    said = capsys.readouterr().out
    assert f"created the store {work}/new" in said and "removed runs/latest, which led nowhere" in said
    assert (work / "new" / "store.json").exists() and not (work / "runs" / "latest").is_symlink()
    assert main(["doctor", "--fix", "--store", "new"]) == 0
    assert "nothing needed it" in capsys.readouterr().out


def test_fix_leaves_alone_what_it_cannot_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--fix", "--json", "--store", "/etc/passwd"]) == 1
    assert json.loads(capsys.readouterr().out)["fixed"] == []


def test_a_missing_extra_is_named_with_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda module: None if module == "lmdb" else object())
    assert main(["doctor", "--json"]) == 0
    extras = json.loads(capsys.readouterr().out)["extras"]
    assert extras["lsun"] == "missing lmdb: pip install 'progdistill[lsun]'"
    assert extras["onnx"] == "installed"
