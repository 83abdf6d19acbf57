"""Each family of latent models, from a pipeline of diffusers to a student of one step in its stock pipeline."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from progdistill.cli.main import main
from progdistill.config.options import resolve_options
from progdistill.jobs.result_cache import Launcher
from progdistill.run import encode
from progdistill.run.prepare import prepare_run
from progdistill.run.steps import RunSteps
from progdistill.store.open import open_store
from tests.end_to_end.families import COLORS, PROMPTS, differences, image_size, make_images, make_pipeline
from tests.end_to_end.running import environment, report_of
from tests.jobs.asking import InThisProcess

# Of diffusers' own use of numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

GUIDES = Path(__file__).parents[2] / "docs" / "how_to"
GUIDE_OF = {"sd": "sdxl", "sdxl": "sdxl", "dit": "dit", "sd3": "flow", "flux": "flow", "sana": "flow"}
SMALL = """updates-per-stage = 4
[set]
"compute.threads_per_rank" = 1
"distill.batch_size" = 4
"distill.learning_rate" = 1e-3
"evaluation.teacher_samples" = 4
"evaluation.teacher_steps" = 8
"""
STORE = ".progdistill/store"


def smaller(command: str, family: str, run: str) -> list[str]:
    """The words of a guide's command, for a small pipeline and a ladder that ends at one step."""
    changes = {
        "PIPELINE_FOLDER": "pipeline",
        "FOLDER_OF_IMAGES": "images",
        "PROMPTS.txt": "prompts.txt",
        "32:4": "4:1",
        "RUN/4": f"{run}/1",
        "1024": str(image_size(family)),
        "256": str(image_size(family)),
        "--classes 1000": f"--classes {len(COLORS)}",
        "rank=64": "rank=4",
    }
    if family == "flux":
        changes["--guidance-scale 5"] = "--guidance-scale 1:5"
    for word, value in changes.items():
        command = command.replace(word, value)
    return shlex.split(command)[1:]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("family", GUIDE_OF)
def test_the_guides_commands_lead_to_a_student_that_the_stock_pipeline_samples(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROGDISTILL_DATA", "data")
    make_pipeline(family, tmp_path / "pipeline", updates=60)
    make_images(tmp_path / "images", image_size(family))
    Path("prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    Path("progdistill.toml").write_text(SMALL)
    text = (GUIDES / f"{GUIDE_OF[family]}.md").read_text()
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)).replace("\\\n", " ")
    commands = [line for line in blocks.splitlines() if line.startswith("progdistill ")]
    run, compared = "", 0
    for command in commands:
        words = smaller(command, family, run)
        if words[0] != "run":
            assert main(words) == 0, words
        else:
            line = [sys.executable, "-m", "progdistill.cli.main", *words]
            done = subprocess.run(line, env=environment(PROGDISTILL_DATA="data"), capture_output=True, text=True)
            assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
            report = report_of(tmp_path)
            run = report["run_id"]
            assert all(stage["to_teacher"] for stage in report["checkpoints"] if stage["kind"] == "student")
        if words[0] == "export" and words[3] == "diffusers":
            scale = 3.0 if "1:" in command or family == "flux" else None
            found = differences(open_store(STORE), f"DistillFlow/{run}/1", Path(words[-1]), scale)
            assert max(found) < 1e-3, found
            compared += 1
    assert compared


class StepsHere(RunSteps):
    """The steps of a run, in this process."""

    def _make_launcher(self, folder: Path) -> Launcher:
        return InThisProcess()


@pytest.mark.parametrize("family", ["dit", *(pytest.param(f, marks=pytest.mark.slow) for f in GUIDE_OF if f != "dit")])
def test_a_pipeline_becomes_a_student_of_one_step(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all weights: the same jobs as above, in one process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROGDISTILL_DATA", "data")
    monkeypatch.setattr(encode, "_launcher", lambda *_: InThisProcess())
    size = image_size(family)
    make_pipeline(family, tmp_path / "pipeline", updates=60)
    make_images(tmp_path / "images", size)
    Path("progdistill.toml").write_text(SMALL)
    assert main(["import", "pipeline", "--name", "teacher", "--image-size", str(size)]) == 0
    assert main(["data", "prepare", "colors", "--source", "images", "--captions", "txt"]) == 0
    assert main(["data", "encode", "colors", "--pipeline", "teacher"]) == 0
    scale = "1:5" if family in ("sd", "sdxl", "flux") else "4"
    given = {"start_from": "teacher", "dataset": "colors-encoded", "ladder": "2:1", "guidance_scale": scale}
    steps = StepsHere(prepare_run(resolve_options(given)), "DistillFlow", "1")
    first = steps.first_teacher()
    student = steps.distill(first, 1)
    record = steps.evaluate(student, 1)
    assert record["to_teacher"]
    assert main(["export", student["id"], "--format", "diffusers", "--out", "out"]) == 0
    found = differences(open_store(STORE), student["id"], tmp_path / "out", 3.0)
    assert max(found) < 1e-3, found
