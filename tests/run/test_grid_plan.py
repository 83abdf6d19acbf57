"""`distill.grid` and `distill.teacher_steps` from setting to plan, and refusals before anything starts."""

from pathlib import Path

import pytest

from progdistill.config.options import RunOptions
from progdistill.config.presets import PRESETS
from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.grid import AngleGrid, FlowGrid, KarrasGrid, TrailingGrid
from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.noise_schedules import DiscreteSchedule, EDMSchedule, NoiseSchedule
from progdistill.errors import UsageError
from progdistill.models.config import DenoiserConfig
from progdistill.registry.checkpoint import CheckpointKind
from progdistill.run.prepare import PreparedRun, prepare_run
from progdistill.store.base import Store
from tests.jobs.conftest import publish

LATENT = DiscreteSchedule(kind="scaled_linear", beta_start=0.00085, beta_end=0.012)


@pytest.fixture(autouse=True)
def _data(data_root: Path, digits: DatasetInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGDISTILL_DATA", str(data_root))


def plan(store: Store, *changes: str, **options: object) -> PreparedRun:
    return prepare_run(RunOptions.model_validate({"store": store.uri, "dataset": "digits", "set": changes, **options}))


def digits_model(schedule: NoiseSchedule | None, **changes: object) -> DenoiserConfig:
    return PRESETS["digits"].model.model_copy(update={"foreign_schedule": schedule, **changes})


def test_students_keep_even_angles_unless_a_grid_is_named(store: Store) -> None:
    assert plan(store).settings.grid == AngleGrid()
    assert "grid" not in plan(store).describe() and "stock" not in plan(store).describe()
    shifted = plan(store, "distill.grid=flow:3")
    assert shifted.settings.grid == FlowGrid(shift=3)
    assert "grid of times: even steps of the flow's time, shift 3" in shifted.describe()
    assert "not for stock pipelines: the scheduler of its export" in shifted.describe()
    assert "distill.grid=angle" in shifted.describe()
    assert shifted.facts()["grid"] == {"kind": "flow", "shift": 3.0}


def test_an_imported_teachers_grid_is_kept_down_the_ladder(store: Store) -> None:
    grid = TrailingGrid(schedule=LATENT)
    teacher = publish(store, digits_model(LATENT, grid=grid), CheckpointKind.IMPORTED)
    assert plan(store, start_from=teacher.id).settings.grid == grid
    assert plan(store, "distill.grid=angle", start_from=teacher.id).settings.grid == AngleGrid()


def test_the_levels_of_a_karras_grid_are_those_of_the_ladders_top(store: Store) -> None:
    teacher = publish(store, digits_model(EDMSchedule(), grid=KarrasGrid()), CheckpointKind.IMPORTED)
    assert plan(store, start_from=teacher.id, ladder="32:1").settings.grid == KarrasGrid(points=32)


def test_a_student_keeps_the_times_it_knows(store: Store) -> None:
    model = digits_model(None, grid=FlowGrid(shift=3))
    student = publish(store, model, CheckpointKind.STUDENT, sampling_steps=16)
    assert plan(store, start_from=student.id).settings.grid == FlowGrid(shift=3)
    with pytest.raises(UsageError, match="is a student that knows its own times alone"):
        plan(store, "distill.grid=angle", start_from=student.id)


@pytest.mark.parametrize(
    ("changes", "ladder", "problem"),
    [
        (["distill.grid=even"], "64:1", "unknown grid 'even'"),
        (["distill.grid=trailing"], "64:1", "discrete noise schedule"),
        (["distill.teacher_steps=4"], "64:1", "distill.teacher_steps = 4, but from 64 to 32"),
        (["distill.teacher_steps=1"], "64:1", "distill.teacher_steps"),
    ],
)
def test_what_does_not_fit_the_ladder_is_refused(changes: list[str], ladder: str, problem: str, store: Store) -> None:
    with pytest.raises(UsageError, match=problem):
        plan(store, *changes, ladder=ladder)


def test_a_ladder_longer_than_the_schedule_is_refused(store: Store) -> None:
    teacher = publish(store, digits_model(LATENT, grid=TrailingGrid(schedule=LATENT)), CheckpointKind.IMPORTED)
    with pytest.raises(UsageError, match="1024 sampling steps on a grid of 1000 indices"):
        plan(store, start_from=teacher.id, ladder="1024:1")


def test_four_steps_of_the_teacher_fit_a_ladder_of_quarters(store: Store) -> None:
    assert plan(store, "distill.teacher_steps=4", ladder="64,16,4").settings.distill.teacher_steps == 4


def test_students_of_networks_of_edm_answer_as_these_do(store: Store) -> None:
    teacher = publish(store, digits_model(EDMSchedule(), grid=KarrasGrid()), CheckpointKind.IMPORTED)
    with pytest.raises(UsageError, match="distill.prediction = x"):
        plan(store, "distill.prediction=x", start_from=teacher.id)


def test_a_student_may_predict_eps_where_its_grid_begins_with_some_of_x(store: Store) -> None:
    model = digits_model(LATENT, grid=TrailingGrid(schedule=LATENT), prediction=PredictionType.EPS)
    teacher = publish(store, model, CheckpointKind.IMPORTED)
    kept = ("distill.prediction=eps", "distill.loss_weight=snr")
    assert plan(store, *kept, start_from=teacher.id).settings.student_prediction is PredictionType.EPS
    assert plan(store, start_from=teacher.id).settings.student_prediction is PredictionType.V
    with pytest.raises(UsageError, match="cannot be distilled on this grid"):
        plan(store, *kept, "distill.grid=angle", start_from=teacher.id)
