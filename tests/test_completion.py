"""Completion scripts, asked by the shells themselves."""

import shutil
import subprocess
from pathlib import Path

import pytest

from progdistill.cli.completion import script
from progdistill.cli.main import main, make_parser


def completed(line: str, folder: Path | None = None) -> list[str]:
    """What bash offers for the last word of a line, in a folder."""
    words = line.split(" ")
    quoted = " ".join(f"'{word}'" for word in words)
    ask = f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _progdistill; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    code = script(make_parser(), "bash") + ask
    return subprocess.run(["bash", "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("progdistill wa", ["watch"]),
        ("progdistill checkpoints ver", ["verify"]),
        ("progdistill checkpoints list --sam", ["--sampling-steps"]),
        ("progdistill run --ladder 4:1 --base", ["--base-updates"]),
        ("progdistill data prepare flowers --im", ["--image-size"]),
    ],
)
def test_bash_completes_verbs_and_options(line: str, offered: list[str]) -> None:
    assert completed(line) == offered


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("progdistill run --dataset ", {"digits", "imagenet64", "flowers"}),
        ("progdistill run --ladder 4:1 --launcher ", {"local", "kubernetes"}),
        ("progdistill plan --preset emo", {"emoji", "emoji16"}),
        ("progdistill resume --origin-run-id ", {"1796109363221930"}),
        ("progdistill watch 17", {"1796109363221930"}),
        ("progdistill report --op", {"--open"}),
    ],
)
def test_bash_completes_values(line: str, offered: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROGDISTILL_DATA", raising=False)
    (tmp_path / ".progdistill/data/flowers").mkdir(parents=True)
    (tmp_path / "runs/1796109363221930").mkdir(parents=True)
    assert offered <= set(completed(line, tmp_path))


def test_bash_completes_files_where_no_word_fits() -> None:
    assert "/etc/passwd" in completed("progdistill data prepare flowers --source /etc/passw")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_a_script_that_it_can_read(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert "sampling-steps" in text and "grey" not in text
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, text=True, check=True, capture_output=True)
