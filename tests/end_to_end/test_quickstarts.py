"""The commands of the quickstarts and how-to pages, in order, with small settings in `progdistill.toml`."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from progdistill.cli.main import main
from tests.end_to_end.running import environment, report_of
from tests.end_to_end.test_readme import SMALL, make_diffusers_model, make_images

DOCS = Path(__file__).parents[2] / "docs"
PAGES = (
    *("quickstart/digits", "how_to/watch", "how_to/branch", "how_to/sample_export", "how_to/guidance"),
    *("how_to/few_steps", "quickstart/images", "quickstart/diffusers", "quickstart/schedule"),
    *("how_to/find_runs", "how_to/store"),
)
SMALL_NETWORK = '"model.network.base_channels" = 32\n"model.network.head_channels" = 32\n'
SHORT = f'ladder = "8:1"\n{SMALL}'
FEWER = {
    **{"64:4": "8:4", "20000": "4", "500": "2", "5000": "2", "50000": "20", "10000": "40"},
    "batch_size=64": "batch_size=8",
    "32:1": "8:1",
    '{"16":60,"8":90,"4":150,"2":350,"1":550}': '{"2":3,"1":4}',
    "--sampling-steps 64": "--sampling-steps 4 --count 4",
}


def commands(page: str) -> list[str]:
    """The commands of ours in a page's shell blocks that this machine alone can run, without those of latent models."""
    text, _, _ = (DOCS / f"{page}.md").read_text().partition("## Latent models")
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text, re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("progdistill ") and "s3://" not in line]


def in_place(command: str, folder: Path, runs: list[str]) -> list[str]:
    """The words of a command, smaller, with this folder's things for the words in capitals."""
    here = {"FOLDER_OF_IMAGES": f"{folder}/images", "FOLDER": f"{folder}/images", "DIFFUSERS_FOLDER": f"{folder}/unet"}
    if runs:
        here |= {"OTHER_RUN": runs[-2] if len(runs) > 1 else "", "RUN": runs[-1]}
    for word, value in (FEWER | here).items():
        command = re.sub(rf"(?<![\w_]){re.escape(word)}(?![\w_])", value, command)
    return [sys.executable, "-m", "progdistill.cli.main", *shlex.split(command)[1:]]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_of_the_pages_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "progdistill.toml").write_text(SHORT)
    make_images(tmp_path / "images")
    make_diffusers_model(tmp_path / "unet")
    runs: list[str] = []
    for page in PAGES:
        if any("four-step" in command for command in commands(page)):  # several pages export to it
            shutil.rmtree(tmp_path / "four-step", ignore_errors=True)
        if page == "how_to/branch":
            assert main(["checkpoints", "alias", "production", f"DistillFlow/{runs[0]}/4"]) == 0
            assert main(["checkpoints", "alias", "my-model", f"DistillFlow/{runs[0]}/8"]) == 0
        if page == "quickstart/images":
            (tmp_path / "progdistill.toml").write_text(SHORT + SMALL_NETWORK)
        for command in commands(page):
            done = subprocess.run(
                in_place(command, tmp_path, runs), cwd=tmp_path, env=environment(), capture_output=True, text=True
            )
            said = f"{page}: {command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            assert done.returncode == 0, said
            if command.startswith("progdistill run ") or command == "progdistill run":
                runs.append(report_of(tmp_path)["run_id"])
    for made in ("one_step.png", "flowers.png", "teacher.png", "four-step/scheduler", "comparison/comparison.html"):
        assert (tmp_path / made).exists(), made
