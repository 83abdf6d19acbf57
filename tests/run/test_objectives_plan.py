"""Objectives of stages: from ladder and settings to the plan and the jobs, and refusals before anything starts."""

from pathlib import Path

import pytest

from progdistill.config.ladder import parse_objectives
from progdistill.config.options import RunOptions
from progdistill.config.presets import PRESETS
from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import LossName, ObjectiveName, PredictionType, TeacherSolver
from progdistill.errors import UsageError
from progdistill.registry.checkpoint import CheckpointKind
from progdistill.run.prepare import PreparedRun, prepare_run
from progdistill.store.base import Store
from progdistill.training.config import StageObjective
from tests.jobs.conftest import publish

TRACT = ObjectiveName.TRACT


@pytest.fixture(autouse=True)
def _data(data_root: Path, digits: DatasetInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGDISTILL_DATA", str(data_root))


def plan(store: Store, *changes: str, **options: object) -> PreparedRun:
    return prepare_run(RunOptions.model_validate({"store": store.uri, "dataset": "digits", "set": changes, **options}))


def test_a_ladder_names_objectives_and_a_plain_one_means_what_it_meant(store: Store) -> None:
    assert parse_objectives("64, 8:tract, 1") == ("64, 8, 1", {8: TRACT})
    assert all(parse_objectives(text) == (text, {}) for text in ("64:1", "64:1:4", "64,16,4", "64:8,1"))
    with pytest.raises(UsageError, match="unknown objective 'trackt'; there are progressive, tract, consistency"):
        parse_objectives("64,8:trackt")
    run = plan(store, ladder="64,8:tract,1")
    assert run.settings.ladder == (64, 8, 1) and run.objectives == [TRACT, ObjectiveName.PROGRESSIVE]
    assert run.facts()["objectives"] == ["tract", "progressive"]
    assert run.describe().endswith("\n  64 → 8: objective tract")
    assert "objective " not in plan(store).describe()
    assert all(plan(store).settings.objective_of(stage) == StageObjective() for stage in range(1, 7))


def test_a_setting_names_the_objective_of_all_other_stages(store: Store) -> None:
    run = plan(store, "distill.objective=tract", "distill.loss=pseudo_huber", ladder="64,8,1:progressive")
    assert run.objectives == [TRACT, ObjectiveName.PROGRESSIVE]
    first, second = (run.settings.objective_of(stage) for stage in (1, 2))
    assert first == StageObjective(name=TRACT, loss=LossName.PSEUDO_HUBER, self_teacher_decay=0.5)
    assert second == StageObjective(loss=LossName.PSEUDO_HUBER)
    assert "64 → 8: objective tract, loss pseudo_huber" in run.describe()


def test_only_the_first_teacher_does_other_steps(store: Store) -> None:
    run = plan(store, "distill.teacher_solver=heun", ladder="64,32,8")
    assert [run.settings.objective_of(stage).solver for stage in (1, 2)] == [TeacherSolver.HEUN, TeacherSolver.DDIM]


def test_consistency_corrects_its_teacher_where_it_can(store: Store) -> None:
    corrected = plan(store, ladder="64,8:consistency").settings.objective_of(1)
    assert (corrected.solver, corrected.addim_eta, corrected.self_teacher_decay) == (TeacherSolver.ADDIM, 0.75, None)
    guided = plan(store, ladder="64,8:consistency", guidance_scale="1:5").settings.objective_of(1)
    assert (guided.solver, guided.addim_eta) == (TeacherSolver.DDIM, None)


@pytest.mark.parametrize(
    ("changes", "ladder", "problem"),
    [
        ([], "64,8,1:consistency", "from 8 to 1 steps has the objective consistency.*learned steps of one length"),
        (["distill.lowest_factor=16"], "64,8:consistency", "distill.lowest_factor = 16, but the stage from 64 to 8"),
        (["distill.lowest_factor=3"], "64,8:consistency", "choose a power of two up to 8"),
        (["distill.teacher_solver=addim"], "64:1", "addim corrects single ones"),
        (["distill.states_from=student"], "64,8:tract", "a student's trajectory passes its own alone"),
        (['distill.objective_at_steps={"3": "tract"}'], "64:1", "names a student of 3 sampling steps"),
        (["distill.objective=trackt"], "64:1", "distill.objective"),
        (["distill.self_teacher_decay=1"], "64,8:tract", "distill.self_teacher_decay"),
    ],
)
def test_what_an_objective_does_not_allow_is_refused(
    changes: list[str], ladder: str, problem: str, store: Store
) -> None:
    with pytest.raises(UsageError, match=problem):
        plan(store, *changes, ladder=ladder)


def test_addim_needs_the_error_of_the_teacher(store: Store) -> None:
    with pytest.raises(UsageError, match="a guided x̂ is meant to err"):
        plan(store, "distill.teacher_solver=addim", ladder="64,8:tract", guidance_scale="1:5")
    with pytest.raises(UsageError, match="without data it is unknown"):
        plan(store, "distill.teacher_solver=addim", "distill.states_from=teacher", ladder="64,8:tract")
    eps = publish(store, PRESETS["digits"].model.model_copy(update={"prediction": PredictionType.EPS}))
    with pytest.raises(UsageError, match="predicts eps, whose x̂ at t = 1 is unknown"):
        plan(store, start_from=eps.id, ladder="64,8:consistency")
    assert plan(store, "distill.teacher_solver=ddim", start_from=eps.id, ladder="64,8:consistency")


def test_a_student_as_teacher_has_learned_its_own_steps_alone(store: Store) -> None:
    student = publish(store, PRESETS["digits"].model, CheckpointKind.STUDENT, sampling_steps=16)
    assert plan(store, start_from=student.id, ladder="16,1:tract").objectives == [TRACT]
    with pytest.raises(UsageError, match="choose tract there"):
        plan(store, start_from=student.id, ladder="16,1:consistency")
    with pytest.raises(UsageError, match="teacher_solver = heun is for an undistilled teacher"):
        plan(store, "distill.teacher_solver=heun", start_from=student.id, ladder="16,8")
