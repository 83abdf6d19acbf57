"""The distance of a student to its teacher from the same noise."""

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import torch

from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import SamplerName
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.evaluate import evaluate_checkpoint
from progdistill.evaluation.generated import GeneratedImages
from progdistill.evaluation.metrics import Moments, frechet_distance, moments_of
from progdistill.evaluation.plan import PlannedComparison
from progdistill.evaluation.sampling import generate
from progdistill.evaluation.to_teacher import compare_with_teacher, diversity, root_mean_square
from progdistill.features.manifest import load_evaluator_manifest
from progdistill.features.registry import open_evaluator
from progdistill.models.load import load_denoiser
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.report.input import stage_entry
from progdistill.report.tables import quality_table
from progdistill.store.base import Store
from progdistill.store.documents import read_record
from progdistill.store.layout import blob_key
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
    assert table.header[-6:] == (
        *("To teacher", "Teacher itself", "Fréchet to teacher", "Fréchet, teacher itself"),
        *("Diversity", "Teacher's diversity"),
    )
    # In the features of the evaluator that the record names.
    assert found.evaluator_id is not None
    extractor = open_evaluator(evaluated_store, load_evaluator_manifest(evaluated_store, found.evaluator_id))

    def moments(images: torch.Tensor) -> Moments:
        return moments_of(extractor.extract((images * 255).round().to(torch.uint8)).features)

    for images, distance in ((drawn(student, 2), found.frechet), (drawn(base, 2), found.teacher_frechet)):
        first, second = moments(images), moments(reference)
        expected = frechet_distance(first.mean, first.covariance, second.mean, second.covariance)
        assert distance == pytest.approx(expected, rel=1e-6)
    # 16 samples of 10 classes: those of the first six classes are two.
    assert found.diversity == pytest.approx(_pairs(drawn(student, 2)), rel=1e-9)
    assert found.teacher_diversity == pytest.approx(_pairs(reference), rel=1e-9)
    assert found.shown.labels == (0, 1, 2, 3)


def _pairs(images: torch.Tensor) -> float:
    squares = [(images[i] - images[i + 10]).square().mean() for i in range(6)]
    return float(torch.stack(squares).mean().sqrt())


def test_diversity_is_over_all_pairs_within_a_group() -> None:
    images = torch.randint(256, (5, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x = images.double() / 255
    own = torch.stack([(x[i] - x[j]).square().mean() for i, j in ((0, 2), (0, 4), (2, 4))]).mean()
    expected = torch.stack([own, (x[1] - x[3]).square().mean()]).mean().sqrt()
    assert diversity(images, [0, 1, 0, 1, 0]) == pytest.approx(float(expected))
    assert diversity(images, range(5)) is None


def test_images_of_the_teacher_at_many_steps_serve_all_students(
    evaluated_store: Store, student: CheckpointManifest, base: CheckpointManifest, digits: DatasetInfo
) -> None:
    chosen = SETTINGS.model_copy(update={"seed": 5, "teacher_samples": 20})

    def kept() -> dict[str, datetime]:
        return {item.key: item.modified_at for item in evaluated_store.list("evaluation_shards/")}

    before = kept()
    first = evaluate_checkpoint(evaluated_store, student, base, 2, chosen, digits).to_teacher
    shards = {key: made_at for key, made_at in kept().items() if key not in before}
    # The student's own are gone.
    assert {key.rpartition("/")[2] for key in shards} == {"images-0-16.json", "images-16-20.json"}
    second = evaluate_checkpoint(evaluated_store, student, base, 1, chosen, digits).to_teacher
    assert kept() == before | shards
    assert first is not None and second is not None and first.teacher_shown == second.teacher_shown


@pytest.mark.parametrize("harm", ["gone", "damaged"])
def test_images_that_were_lost_are_generated_again(
    harm: str, evaluated_store: Store, student: CheckpointManifest, base: CheckpointManifest, digits: DatasetInfo
) -> None:
    chosen = SETTINGS.model_copy(update={"seed": 6})
    wanted = evaluate_checkpoint(evaluated_store, student, base, 2, chosen, digits).to_teacher
    for item in list(evaluated_store.list("evaluation_shards/")):
        record = read_record(evaluated_store, item.key, GeneratedImages)
        assert record is not None
        key = blob_key(record.sheet.sha256)
        evaluated_store.delete(key)
        if harm == "damaged":
            evaluated_store.write(key, b"no picture")
    found = evaluate_checkpoint(evaluated_store, student, base, 2, chosen, digits).to_teacher
    assert found is not None and wanted is not None and found.distance == wanted.distance


def test_without_features_images_are_compared_by_pixels_alone(
    evaluated_store: Store, student: CheckpointManifest, base: CheckpointManifest, digits: DatasetInfo
) -> None:
    planned = PlannedComparison(base, 4, with_features=False)
    found = compare_with_teacher(evaluated_store, student, planned, 2, SETTINGS, digits)
    assert found.distance > 0 and found.evaluator_id is None and found.frechet is None


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
