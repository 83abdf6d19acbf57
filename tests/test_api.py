"""The Python interface, as a notebook uses it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import progdistill
from progdistill import Samples
from progdistill.config.options import RUN_OPTIONS
from progdistill.errors import UsageError
from progdistill.registry.aliases import move_alias
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.store.base import Store
from tests.evaluation.conftest import base, digits, evaluated_store, student

__all__ = ["base", "digits", "evaluated_store", "student"]


@pytest.fixture
def model(evaluated_store: Store, base: CheckpointManifest, student: CheckpointManifest) -> progdistill.Model:
    return progdistill.load(student.id, evaluated_store.uri)


def test_the_options_are_those_of_the_command() -> None:
    assert set(progdistill.Options.__annotations__) == {option.field for option in RUN_OPTIONS}


def test_every_public_name_is_there_and_documented() -> None:
    for name in progdistill.__all__:
        assert getattr(progdistill, name).__doc__, name


def test_importing_the_package_imports_no_interface() -> None:
    code = "import sys, progdistill; print('progdistill.api' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_model_is_found_by_its_alias(evaluated_store: Store, student: CheckpointManifest) -> None:
    move_alias(evaluated_store, "notebook", student.id, "tester")
    model = progdistill.load("notebook", evaluated_store.uri)
    assert (model.id, model.sampling_steps) == (student.id, 2)
    assert repr(model).startswith(f"Model({student.id[:12]}, student, 2 sampling steps")
    assert "<th>sampling steps</th><td>2</td>" in model._repr_html_()


def test_an_image_depends_on_seed_and_index_alone(model: progdistill.Model) -> None:
    many, few = model.sample(12, seed=3, batch_size=5), model.sample(4, seed=3)
    assert many.images.shape == (12, 8, 8, 1) and many.images.dtype == np.uint8
    assert np.abs(many.images[:4].astype(int) - few.images).max() <= 1  # floating-point order
    assert many.labels == [index % 10 for index in range(12)]
    assert not np.array_equal(few.images, model.sample(4, seed=4).images)


def test_samples_are_saved_and_shown(model: progdistill.Model, tmp_path: Path) -> None:
    samples = model.sample(4, seed=0, class_label=7)
    assert samples.labels == [7] * 4 and len(samples.images) == 4
    assert np.array_equal(np.asarray(Image.open(samples.save(tmp_path / "grid.png"))), samples.grid()[:, :, 0])
    assert samples.save(tmp_path / "all.parquet").exists()
    assert samples._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="ends in .png or .parquet"):
        samples.save(tmp_path / "grid.gif")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "count 0: give a number from 1"),
        ({"sampling_steps": 0}, "sampling steps 0"),
        ({"sampler": "euler2"}, "unknown sampler 'euler2'; valid samplers: "),
        ({"gamma": 0.5}, "gamma is for the sampler ancestral"),
        ({"class_label": 10}, "class 10: give a class from 0 to 9"),
    ],
)
def test_a_bad_argument_is_one_message(model: progdistill.Model, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model.sample(**arguments)


def test_a_model_is_evaluated_beside_its_baseline(
    model: progdistill.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record = model.evaluate(samples=20, dataset="digits")
    assert record.distilled is not None and record.distilled.distance > 0
    assert record.baseline_ddim is not None and record.sampling_steps == 2


def test_a_model_is_exported(model: progdistill.Model, tmp_path: Path) -> None:
    model.export(tmp_path / "out", "safetensors")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"README.md", "manifest.json", "weights.safetensors"}
    with pytest.raises(UsageError, match="is not empty"):
        model.export(tmp_path / "out", "safetensors")


def test_checkpoints_are_listed(evaluated_store: Store, model: progdistill.Model) -> None:
    assert model.id in [manifest.id for manifest in progdistill.checkpoints(evaluated_store.uri)]


def test_a_plan_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = progdistill.plan(ladder="4:1", set={"distill.learning_rate": 5e-4})
    assert plan.facts()["stages"] == 2 and plan.settings.distill.learning_rate == 5e-4
    assert not (tmp_path / "runs").exists()


def test_a_run_is_started_followed_and_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = progdistill.distill(ladder="2:1", base_updates=12, updates_per_stage=6, set={"evaluation.samples": 50})
    events = list(run.events())
    assert run.wait().state == "done"
    assert {"base model", "student of 1 steps"} <= {event.label for event in events}
    assert list(run.models()) == [2, 1]
    found = progdistill.Run(run.run_id)
    assert found.state == "done" and found.report() == run.report()
    assert f"<td>{run.models()[1].id[:12]}</td>" in found._repr_html_()
    assert json.loads((run.folder / "report" / "report.json").read_text())["run_id"] == run.run_id
    with pytest.raises(UsageError, match="at least two runs"):
        progdistill.compare(run)


def test_a_run_that_cannot_start_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="unknown option 'lader'"):
        progdistill.distill(lader="2:1")  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="is not in the ladder|goes up"):
        progdistill.distill(ladder="2:4")
    with pytest.raises(UsageError, match="no run '17'"):
        progdistill.resume("17")
    assert not list(tmp_path.glob("runs/*"))


def test_an_interrupted_run_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = progdistill.distill(ladder="2:1", base_updates=2000, updates_per_stage=6)
    next(event for event in run.events() if event.kind == "job")
    run.stop()
    assert run.state == "interrupted" and "<th>base model</th><td>" in run._repr_html_()
    with pytest.raises(progdistill.RunFailedError, match="To resume: "):
        run.wait()


def test_samples_show_what_they_are() -> None:
    assert repr(Samples(np.zeros((2, 8, 8, 3), np.uint8), None)) == "Samples(2 images of 8×8, RGB)"
