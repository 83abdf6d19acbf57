"""Scheduled runs of the compiled workflow: each pod's command as a real process, all data in S3."""

import json
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from progdistill.registry.aliases import move_alias
from progdistill.registry.runs import run_checkpoints
from progdistill.store.base import Store
from progdistill.store.open import open_store
from tests.end_to_end.running import SMALL, command, ids_of, run_flow
from tests.schedules.argo import PodFailed, Workflow, can_run_pods
from tests.schedules.conftest import compile_flow, datastore
from tests.store.s3_server import BUCKET

pytestmark = pytest.mark.skipif(
    not can_run_pods(),
    reason="a pod needs /mnt for itself: install util-linux, allow user namespaces, check out elsewhere",
)

FOUND = "found finished in the store"


@pytest.fixture
def store(access: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store."""
    monkeypatch.setenv("PROGDISTILL_CACHE", str(tmp_path / "cache"))
    return open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}/team")


@pytest.fixture
def production(access: str, store: Store, tmp_path: Path) -> list[str]:
    """The ids of a run from a laptop; its last student is the alias `production` of the store."""
    laptop = tmp_path / "laptop"
    laptop.mkdir()
    done = run_flow(laptop, "run", "--ladder", "4:1", "--store", store.uri, *SMALL, **datastore(access))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    move_alias(store, "production", ids_of(laptop)[-1], "tester")
    return ids_of(laptop)


def scheduled(access: str, store: Store, folder: Path, **parameters: Any) -> Workflow:
    """A run of the workflow that is made where nothing but the store was said."""
    done = compile_flow(access, folder, PROGDISTILL_STORE=store.uri)
    assert done.returncode == 0, done.stderr[-3000:]
    return Workflow(json.loads(done.stdout), f"distillflow-{uuid.uuid4().hex}", folder, **parameters)


@pytest.mark.slow
def test_without_a_checkpoint_in_production_the_first_step_says_so(access: str, store: Store, tmp_path: Path) -> None:
    workflow = scheduled(access, store, tmp_path)
    with pytest.raises(PodFailed, match="'production' not found"):
        workflow.run()
    assert [name for name, _ in workflow.pods] == ["start"]


def test_a_workflow_that_succeeded_without_its_report_fails(access: str, store: Store, tmp_path: Path) -> None:
    """Argo omits the steps after one whose outputs it cannot evaluate, and calls the workflow succeeded."""
    workflow = scheduled(access, store, tmp_path)
    with pytest.raises(PodFailed, match=rf"DistillFlow/{workflow.run_id} ended \(Succeeded\) without a report"):
        workflow.run_exit_handler("Succeeded")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_with_nothing_changed_a_scheduled_run_trains_nothing_and_a_laptop_can_take_it_over(
    access: str, store: Store, production: list[str], tmp_path: Path
) -> None:
    workflow = scheduled(access, store, tmp_path)
    workflow.run()
    assert [name for name, _ in workflow.pods] == [
        *("start", "train-base", "recursive-distill", "recursive-distill", "plan-evaluation"),
        *("evaluate-fid", "evaluate-fid", "evaluate-fid", "collect", "report", "end"),
    ]
    assert "reproduces production" in workflow.output_of("start")
    assert sum(output.count(FOUND) for _, output in workflow.pods) == 7
    assert list(run_checkpoints(store, "DistillFlow", workflow.run_id).values()) == production
    workflow.run_exit_handler("Succeeded")

    resumed = subprocess.run(
        command("--datastore", "s3", "resume", "--origin-run-id", workflow.run_id),
        cwd=tmp_path,
        env=datastore(access),
        capture_output=True,
        text=True,
    )
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert f"DistillFlow/{workflow.run_id} cloned!" in resumed.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_options_given_by_hand_reach_the_pods_and_what_they_change_is_trained_there(
    access: str, store: Store, production: list[str], tmp_path: Path
) -> None:
    workflow = scheduled(
        access, store, tmp_path, updates_per_stage=5, set="distill.learning_rate=0.0004 evaluation.samples=40"
    )
    workflow.run()
    assert f"base model: {FOUND}" in workflow.output_of("train-base")
    assert FOUND not in workflow.output_of("recursive-distill")
    made = list(run_checkpoints(store, "DistillFlow", workflow.run_id).values())
    assert made[0] == production[0] and not set(made[1:]) & set(production)
