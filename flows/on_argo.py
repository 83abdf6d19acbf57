"""What a scheduled flow has and a local one has not: a schedule, and pods with retries and deadlines."""

import os
import sys
from typing import TYPE_CHECKING, Any

from metaflow import FlowMutator, Parameter
from metaflow.exception import MetaflowException
from metaflow.metaflow_config import DATASTORE_SYSROOT_S3, KUBERNETES_CONTAINER_IMAGE

from progdistill.config.options import (
    RUN_OPTIONS,
    RunOptions,
    assignments,
    field_name,
    options_from_namespace,
)
from progdistill.errors import UsageError

if TYPE_CHECKING:
    # Imported where a deployment is at hand: every task of a local run imports this file too.
    from progdistill.config.deployment import DeploymentSettings, PodSettings

DEFAULTS = "{}"

STORE_IN_DATASTORE = "progdistill"
"""Where the store is, below Metaflow's datastore, when nobody says where."""


def read_deployment(text: str) -> dict[str, Any]:
    """Parse and check a deployment; Metaflow keeps it with the flow as plain values."""
    if text == DEFAULTS:
        return {}
    from progdistill.config.deployment import parse_deployment

    try:
        return parse_deployment(text).model_dump(mode="json")
    except UsageError as error:
        raise MetaflowException(str(error)) from None


class OnArgo(FlowMutator):
    """Applies the deployment where Argo is concerned; `run` and `resume` on this machine have none of it."""

    def pre_mutate(self, mutable_flow):
        """Give the steps their pods; where the flow is deployed, also its schedule and its options."""
        telling_argo, in_pod = "argo-workflows" in sys.argv, "ARGO_WORKFLOW_TEMPLATE" in os.environ
        if not (telling_argo or in_pod):
            return
        from progdistill.config.deployment import DeploymentSettings

        deployment = DeploymentSettings.model_validate(dict(mutable_flow.configs)["deployment"].to_dict())
        if telling_argo and "create" in sys.argv:
            _require_image(deployment)
            _add_schedule(mutable_flow, deployment)
            _set_parameters(mutable_flow, deployed_options(deployment))
        elif telling_argo:
            _set_parameters(mutable_flow, RunOptions())  # `trigger` sends what is typed, Argo has the rest
        steps = dict(mutable_flow.steps)
        if unknown := sorted(deployment.steps.keys() - steps.keys()):
            known = ", ".join(steps)
            raise MetaflowException(f"deployment: there is no step {unknown[0]}; steps are {known}")
        for name, step in steps.items():
            _add_pod(step, deployment, deployment.pod_of(name))


def _require_image(deployment: "DeploymentSettings") -> None:
    if "--only-json" not in sys.argv and not (deployment.image or KUBERNETES_CONTAINER_IMAGE):
        raise MetaflowException(
            "deployment: no image is named, and Metaflow's own lacks what this package needs: set `image`, or"
            " METAFLOW_KUBERNETES_CONTAINER_IMAGE in your Metaflow profile"
        )


def deployed_options(deployment: "DeploymentSettings") -> RunOptions:
    """The options of scheduled runs: the deployment's, then those of the environment and progdistill.toml."""
    from progdistill.config.settings import check_paths
    from progdistill.run.reproduce import check_like

    given = {field_name(name): value for name, value in deployment.options.items()}
    if isinstance(changes := given.get("set"), dict):
        given["set"] = assignments(changes)
    try:
        options = options_from_namespace(given)
        check_like(options)
        check_paths(options.set)
    except UsageError as error:
        raise MetaflowException(str(error)) from None
    if any(" " in assignment for assignment in options.set):
        raise MetaflowException("deployment: values in options.set hold no spaces: Argo hands on one text")
    if options.store is None and DATASTORE_SYSROOT_S3:
        beside = f"{DATASTORE_SYSROOT_S3.rstrip('/')}/{STORE_IN_DATASTORE}"
        options = options.model_copy(update={"store": beside})
    if options.store is None or "://" not in options.store:
        raise MetaflowException(
            f"deployment: store is {options.store or 'not set'}, but a pod's disk is gone when the pod ends:"
            " set options.store or PROGDISTILL_STORE to s3://bucket/prefix"
        )
    return options


def _add_schedule(mutable_flow, deployment: "DeploymentSettings") -> None:
    if deployment.cron:
        schedule = {"cron": deployment.cron, "timezone": deployment.timezone}
        mutable_flow.add_decorator("schedule", deco_kwargs=schedule)


def _set_parameters(mutable_flow, options: RunOptions) -> None:
    for option in RUN_OPTIONS:
        name, value = field_name(option.name), getattr(options, field_name(option.name))
        # Argo hands a list on as text that no command line reads; a pod parts text at its spaces.
        default = (" ".join(value) or None) if option.repeatable else value
        parameter = Parameter(option.name, type=option.type, help=option.help, default=default)
        mutable_flow.add_parameter(name, parameter, overwrite=True)


def _add_pod(step, deployment: "DeploymentSettings", pod: "PodSettings") -> None:
    kubernetes = {
        "cpu": pod.cpu,
        "memory": pod.memory_mib,
        "disk": pod.disk_mib,
        "gpu": pod.gpus,
        "image": deployment.image,
        "image_pull_policy": deployment.image_pull_policy,
        "image_pull_secrets": list(deployment.image_pull_secrets),
        "service_account": deployment.service_account,
        "secrets": list(deployment.secrets),
        "node_selector": deployment.node_selector,
        "tolerations": list(deployment.tolerations),
        "labels": deployment.labels,
        "annotations": deployment.annotations,
        "security_context": deployment.security_context,
    }
    step.add_decorator("kubernetes", deco_kwargs={k: v for k, v in kubernetes.items() if v})
    step.add_decorator("timeout", deco_kwargs={"minutes": pod.timeout_minutes})
    if pod.retries:
        wait = pod.minutes_between_retries
        step.add_decorator("retry", deco_kwargs={"times": pod.retries, "minutes_between_retries": wait})
    if deployment.environment:
        step.add_decorator("environment", deco_kwargs={"vars": deployment.environment})
