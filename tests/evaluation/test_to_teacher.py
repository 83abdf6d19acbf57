"""The distance of a student to its teacher from the same noise."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import SamplerName
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.evaluate import evaluate_checkpoint
from progdistill.evaluation.sampling import generate
from progdistill.evaluation.to_teacher import root_mean_square
from progdistill.models.load import load_denoiser
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.report.input import stage_entry
from progdistill.report.tables import quality_table
from progdistill.store.base import Store
from tests.end_to_end.running import command, environment, report_of
from tests.models.pipelines import stable_diffusion

SETTINGS = EvaluationSettings(samples=20, shown_samples=4, teacher_samples=16, teacher_steps=8)


def test_each_sample_is_compared_with_its_counterpart(
    evaluated_store: Store, student: CheckpointManifest, base: CheckpointManifest, digits: DatasetInfo
) -> None:
    record = evaluate_checkpoint(evaluated_store, student, base, 2, SETTINGS, digits)
    found = record.to_teacher
    assert found is not None and found.teacher_id == base.id and found.shown is not None

    def drawn(manifest: CheckpointManifest, steps: int) -> torch.Tensor:
        model = load_denoiser(evaluated_store, manifest)
        batches = generate(model, SamplerName.DDIM, steps, indices=range(16), seed=0, batch_size=16)
        return torch.cat(list(batches)).double() / 255

    reference = drawn(base, 8)
    for images, distance in ((drawn(student, 2), found.distance), (drawn(base, 2), found.teacher_distance)):
        assert distance == pytest.approx(float((images - reference).square().mean().sqrt()), rel=1e-9)
    table = quality_table([stage_entry(evaluated_store, student, record)])
    assert table.header[-2:] == ("To teacher", "Teacher itself")


def test_it_is_measured_only_where_it_is_wanted(
    evaluated_store: Store, student: CheckpointManifest, base: CheckpointManifest, digits: DatasetInfo
) -> None:
    off = SETTINGS.model_copy(update={"teacher_samples": 0})
    assert evaluate_checkpoint(evaluated_store, student, base, 2, off, digits).to_teacher is None
    assert evaluate_checkpoint(evaluated_store, student, None, 2, SETTINGS, digits).to_teacher is None


def test_black_and_white_are_one_apart() -> None:
    white = torch.full((2, 1, 2, 2), 255, dtype=torch.uint8)
    assert root_mean_square(white, torch.zeros_like(white)) == 1
    assert root_mean_square(white, white) == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_text_model_is_distilled_from_prompts_alone_and_compared_with_its_teacher(tmp_path: Path) -> None:
    stable_diffusion(tmp_path / "sd")
    (tmp_path / "prompts.txt").write_text("a red fish\ntwo green boats\nthree cats\n")
    line = (str(Path(sys.executable).with_name("progdistill")),)
    for words in (
        (*line, "data", "prepare", "words", "--source", "prompts.txt"),
        (*line, "import", "sd", "--name", "sd"),
        (*line, "data", "encode", "words", "--pipeline", "sd"),
    ):
        done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    encoded = next(path.parent.name for path in (tmp_path / ".progdistill" / "data").glob("words?*/manifest.json"))
    settings = ("distill.states_from=teacher", "distill.batch_size=2", "evaluation.teacher_samples=4")
    run = command(
        *("run", "--from", "sd", "--dataset", encoded, "--ladder", "4:2", "--updates-per-stage", "2"),
        *(word for one in settings for word in ("--set", one)),
    )
    done = subprocess.run(run, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    stages = report_of(tmp_path)["checkpoints"]
    assert [stage["sampling_steps"] for stage in stages] == [4, 2]
    assert all(0 < stage["to_teacher"] < 1 and stage["distance"] is None for stage in stages)
    page = json.dumps(stages[-1])
    assert "has no images" in page
