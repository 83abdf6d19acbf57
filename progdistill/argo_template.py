"""Corrects the workflow template that Metaflow compiles for Argo, for Argo 3.7 and 4, and adds an exit handler.

Without it, a workflow on Argo 3.7.16, 4.0.7 or later ends as `Succeeded` with every step after `distill` omitted.
"""

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

_LAST_OUTPUT = re.compile(
    r"^\((?P<first>.+?)\?\.outputs \?\? (?P<second>.+?)\?\.outputs\)\.parameters\['(?P<name>.+)'\]$"
)
_STARTED = "mflog 'Task is starting.'"
"""The end of a container's preparation: the code package is unpacked and on the path."""

REPORT_CHECK = "require-report"
_ERROR_CAPTURE = "capture-error-hook-fn-preflight"


def corrected(template: dict[str, Any], priority_class: str | None = None) -> dict[str, Any]:
    """A corrected copy of a WorkflowTemplate.

    - Outputs of a skipped step are nil in newer releases of Argo; Metaflow's expression then fails.
    - The container that captures error messages gets the security context of the steps, which restricted namespaces
      require.
    - When a workflow has ended, `run/require_report.py` fails it if it has no report.

    Args:
        template: As Metaflow compiled it.
        priority_class: Of the pods; None: the cluster's default.
    """
    template = copy.deepcopy(template)
    spec = template["spec"]
    for expression_of in _expressions(spec["templates"]):
        expression_of["expression"] = _tolerant(expression_of["expression"])
    named = {part["name"]: part for part in spec["templates"]}
    step = named["end"]
    security = step["container"].get("securityContext")
    for part in spec["templates"]:
        if "container" in part and not part["container"].get("securityContext"):
            part["container"]["securityContext"] = security
    spec["templates"] += [_report_check(step, spec["entrypoint"]), _exit_handler(with_capture=_ERROR_CAPTURE in named)]
    spec["onExit"] = "exit"
    if priority_class is not None:
        spec["podPriorityClassName"] = priority_class
    return template


def install(priority_class: str | None) -> None:
    """Make Metaflow's `argo-workflows` commands deploy and print corrected templates."""
    from metaflow.plugins.argo.argo_workflows import ArgoWorkflows

    compiled: Callable[[Any], Any] = ArgoWorkflows._compile_workflow_template
    if getattr(compiled, "corrects", False):
        return

    def compile_corrected(workflows: Any) -> Any:
        template = compiled(workflows)
        template.payload = corrected(template.payload, priority_class)
        return template

    compile_corrected.corrects = True  # type: ignore[attr-defined]
    ArgoWorkflows._compile_workflow_template = compile_corrected


def _expressions(value: Any) -> Iterator[dict[str, Any]]:
    """Every object with an expression, at any depth."""
    if isinstance(value, dict):
        if isinstance(value.get("expression"), str):
            yield value
        for inner in value.values():
            yield from _expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _expressions(inner)


def _tolerant(expression: str) -> str:
    """`(A?.outputs ?? B?.outputs).parameters['X']`, written so that A's outputs may lack X."""
    found = _LAST_OUTPUT.match(expression)
    if found is None:
        return expression
    return " ?? ".join(f"{found[part]}?.outputs?.parameters?.['{found['name']}']" for part in ("first", "second"))


def _report_check(step: dict[str, Any], flow: str) -> dict[str, Any]:
    """A pod like that of `step`, which runs `run/require_report.py` for a run of `flow` in place of the step."""
    check = copy.deepcopy(step)
    check.update(name=REPORT_CHECK, inputs={}, outputs={})
    check["metadata"]["annotations"].pop("metaflow/step_name", None)
    shell, option, script = check["container"]["command"]
    prepared, _, _ = script.partition(_STARTED)
    prepared = prepared.replace("{{inputs.parameters.input-paths}}", "none")
    run = f"python -m progdistill.run.require_report --run {flow}/argo-{{{{workflow.name}}}}"
    check["container"]["command"] = [
        *(shell, option),
        f"{prepared}{_STARTED} && {run} --store '{{{{workflow.parameters.store}}}}' --status '{{{{workflow.status}}}}'",
    ]
    return check


def _exit_handler(with_capture: bool) -> dict[str, Any]:
    steps: list[list[dict[str, Any]]] = [[{"name": REPORT_CHECK, "template": REPORT_CHECK}]]
    if with_capture:  # First: the check ends the handler when it fails.
        steps.insert(0, [{"name": "capture-error", "template": _ERROR_CAPTURE, "continueOn": {"failed": True}}])
    return {"name": "exit", "steps": steps}
