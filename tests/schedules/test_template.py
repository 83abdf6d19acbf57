"""The compiled workflow has what production needs, and nothing that would hang it or reveal a secret."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from progdistill.config.options import RUN_OPTIONS
from tests.end_to_end.running import command
from tests.infra.tools import ROOT, of_kind, quantity
from tests.schedules.conftest import compile_flow, datastore, parameters_of, pods_of, templates_of
from tests.store.s3_server import ENVIRONMENT

STEPS = {*("start", "train_base", "distill", "plan_evaluation", "evaluate_fid", "collect", "report", "end")}


def test_the_schedule_is_that_of_the_deployment(compiled: dict[str, Any]) -> None:
    cron = json.loads(compiled["metadata"]["annotations"]["metaflow/cron"])
    assert cron == {"schedule": "30 2 * * 1-5", "tz": "Europe/Vienna"}


def test_every_step_has_its_deadline_and_its_retries(compiled: dict[str, Any]) -> None:
    pods = pods_of(compiled)
    assert pods.keys() == STEPS
    minutes = {step: pod["activeDeadlineSeconds"] / 60 for step, pod in pods.items()}
    assert minutes["start"] == 60 and minutes["report"] == 90
    assert minutes["train_base"] > minutes["distill"] > minutes["evaluate_fid"] > 60
    retries = {step: (pod.get("retryStrategy") or {}).get("limit", 0) for step, pod in pods.items()}
    assert retries == {step: 0 if step == "report" else 3 for step in STEPS}
    # Metaflow skips a step's code in an attempt that it does not know to be allowed.
    for step, pod in pods.items():
        assert f"--max-user-code-retries {retries[step]}" in pod["container"]["command"][-1]


def test_every_step_is_a_small_pod_of_the_deployments_kind(compiled: dict[str, Any]) -> None:
    for step, pod in pods_of(compiled).items():
        container = pod["container"]
        assert container["image"] == "registry.example/progdistill@sha256:0"
        memory = "8192M" if step == "report" else "2048M"
        assert container["resources"]["requests"] == {"cpu": "0.5", "memory": memory, "ephemeral-storage": "10240M"}
        assert pod["serviceAccountName"] == "progdistill-driver"
        assert pod["nodeSelector"] == {"pool": "drivers"}
        assert pod["tolerations"] == [{"key": "drivers", "operator": "Exists"}]
        assert pod["metadata"]["labels"]["team"] == "vision"
        variables = {one["name"]: one["value"] for one in container["env"]}
        assert variables["AWS_ENDPOINT_URL_S3"] == "https://s3.example"


def test_every_pod_is_admitted_by_the_limits_of_the_namespace(compiled: dict[str, Any]) -> None:
    """A LimitRange fills in limits that are missing, and a limit below the request is refused."""
    (limits,) = of_kind("overlays/gpu", "LimitRange")
    defaults = next(one["default"] for one in limits["spec"]["limits"] if one["type"] == "Container")
    for pod in templates_of(compiled).values():
        if "container" not in pod:
            continue
        resources = pod["container"]["resources"]
        for name, requested in resources["requests"].items():
            limit = {**defaults, **resources["limits"]}.get(name)
            assert limit is None or quantity(requested) <= quantity(limit), (pod["name"], name)


def test_every_container_has_a_security_context(flows_bucket: str, tmp_path: Path) -> None:
    deployment = tmp_path / "deployment.toml"
    deployment.write_text((ROOT / "infra" / "deployment.toml").read_text())
    done = compile_flow(flows_bucket, tmp_path, "--config", "deployment", str(deployment))
    assert done.returncode == 0, done.stderr[-3000:]
    template = json.loads(done.stdout)
    assert template["spec"]["podPriorityClassName"] == "progdistill-driver"
    contexts = [pod["container"]["securityContext"] for pod in templates_of(template).values() if "container" in pod]
    assert contexts and all(context["runAsNonRoot"] is True for context in contexts)


def test_outputs_of_a_skipped_step_are_tolerated(compiled: dict[str, Any]) -> None:
    outputs = templates_of(compiled)["distill"]["outputs"]["parameters"]
    expressions = {one["name"]: one["valueFrom"]["expression"] for one in outputs}
    for name, expression in expressions.items():
        parts = [f"steps['distill-{part}']?.outputs?.parameters?.['{name}']" for part in ("recursion", "internal")]
        assert expression == " ?? ".join(parts)


def test_when_a_workflow_has_ended_its_report_is_required(compiled: dict[str, Any]) -> None:
    templates = templates_of(compiled)
    tasks = [task["template"] for group in templates[compiled["spec"]["onExit"]]["steps"] for task in group]
    assert tasks[-1] == "require-report"
    assert "progdistill.run.require_report" in templates["require-report"]["container"]["command"][-1]


def test_secrets_are_named_and_their_values_stand_nowhere(compiled: dict[str, Any]) -> None:
    for pod in pods_of(compiled).values():
        assert [one["secretRef"]["name"] for one in pod["container"]["envFrom"]] == ["progdistill-s3"]
    text = json.dumps(compiled)
    assert "a-value-nobody-may-read" not in text
    assert ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in text and ENVIRONMENT["AWS_ACCESS_KEY_ID"] not in text


def test_every_option_of_a_run_is_a_parameter_with_the_deployments_default(compiled: dict[str, Any]) -> None:
    given = {key: value for key, value in parameters_of(compiled).items() if value is not None}
    assert parameters_of(compiled).keys() == {option.parameter for option in RUN_OPTIONS}
    assert given == {
        "reproduce": "production",
        "updates-per-stage": 7,
        "store": "s3://models/team",
        "set": "distill.learning_rate=0.0005 snapshots.keep=1",
    }


def test_a_stage_goes_round_by_calling_itself(compiled: dict[str, Any]) -> None:
    inner, again = (group[0] for group in templates_of(compiled)["distill"]["steps"])
    assert inner["template"] == "recursive-distill"
    assert again["template"] == "distill"
    assert again["when"] == "{{steps.distill-internal.outputs.parameters.switch-step}}==distill"


def test_no_task_refers_to_one_that_may_be_skipped(compiled: dict[str, Any]) -> None:
    """A reference to a skipped task's output hangs the workflow (Argo 3.7.11 and later)."""
    tasks = {task["name"]: task for task in templates_of(compiled)["DistillFlow"]["dag"]["tasks"]}
    conditional = {name for name, task in tasks.items() if "when" in task}
    # The one condition: the stages are done. It always holds when `distill` has ended well.
    assert conditional == {"plan-evaluation"}
    assert "'distill'" in tasks["plan-evaluation"]["when"]
    for task in tasks.values():
        text = json.dumps(task)
        referred = set(re.findall(r"tasks\.([\w-]+)\.", text)) | set(re.findall(r"tasks\['([\w-]+)'\]", text))
        needed = set(re.findall(r"([\w-]+)\.Succeeded", task.get("depends", "")))
        upstream = set(needed)
        for name in needed:
            upstream |= set(re.findall(r"([\w-]+)\.Succeeded", tasks[name].get("depends", "")))
        assert referred <= upstream, task["name"]


@pytest.fixture(scope="module")
def default(flows_bucket: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The template of a deployment about which nothing was said."""
    done = compile_flow(flows_bucket, tmp_path_factory.mktemp("bare"))
    assert done.returncode == 0, done.stderr[-3000:]
    template: dict[str, Any] = json.loads(done.stdout)
    return template


def test_by_default_every_sunday_the_run_of_production_is_done_anew(default: dict[str, Any]) -> None:
    assert json.loads(default["metadata"]["annotations"]["metaflow/cron"])["schedule"] == "0 3 * * 0"
    given = {key: value for key, value in parameters_of(default).items() if value is not None}
    assert given == {"reproduce": "production", "store": "s3://flows/metaflow/progdistill"}
    requests = pods_of(default)["distill"]["container"]["resources"]["requests"]
    assert requests == {"cpu": "1", "memory": "4096M", "ephemeral-storage": "10240M"}


def test_a_run_triggered_by_hand_is_told_only_what_was_typed(flows_bucket: str, tmp_path: Path) -> None:
    """A default here would go before the deployment's own, which Argo holds."""
    line = command("--datastore", "s3", "argo-workflows", "trigger", "--help")
    typed = {"PROGDISTILL_STORE": "s3://this/machine"}
    done = subprocess.run(line, cwd=tmp_path, env=datastore(flows_bucket, **typed), capture_output=True, text=True)
    assert done.returncode == 0 and all(f"--{option.parameter} " in done.stdout for option in RUN_OPTIONS)
    assert "[default" not in done.stdout


def test_a_deployment_without_an_image_is_looked_at_but_not_made(flows_bucket: str, tmp_path: Path) -> None:
    line = command("--datastore", "s3", "argo-workflows", "create")
    done = subprocess.run(line, cwd=tmp_path, env=datastore(flows_bucket), capture_output=True, text=True)
    assert done.returncode != 0 and "no image is set" in done.stderr


@pytest.mark.parametrize(
    ("deployment", "words"),
    [
        ('cron = "weekly"', "five cron fields"),
        ("crom = 1", "crom"),
        ('[options]\nladdder = "8:1"', "unknown option 'laddder'"),
        ('[options]\nreproduce = "production"\npreset = "digits"', "production decides what --preset"),
        ("[options.set]\n'distil.updates' = 1", "did you mean distill.updates?"),
        ("[options.set]\nladder = [8, 4]", "give it as --ladder"),
        ('[options]\nstore = "/disk"', "store is /disk, but a pod's disk is gone"),
        ("steps.distil = { retries = 1 }", "unknown step distil;"),
        ("steps.distill = { memory = 1 }", "memory"),
        ('{"pod": {"memory": 1}}', "memory"),
        ('environment = { AWS_SECRET_ACCESS_KEY = "x" }', "AWS_SECRET_ACCESS_KEY looks like a secret"),
        ("cron = ", "not valid TOML"),
    ],
)
def test_a_bad_deployment_is_refused_by_name(deployment: str, words: str, flows_bucket: str, tmp_path: Path) -> None:
    (tmp_path / "it.toml").write_text(deployment)
    done = compile_flow(flows_bucket, tmp_path, "--config", "deployment", "it.toml")
    assert done.returncode != 0 and done.stdout == ""
    assert words in done.stderr and "Traceback" not in done.stderr
