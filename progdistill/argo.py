"""Adds the run options to the flow as Metaflow parameters and, on Argo, its schedule and pods."""

import os
import sys
from typing import TYPE_CHECKING, Any

from metaflow import FlowMutator, Parameter
from metaflow.exception import MetaflowException
from metaflow.metaflow_config import DATASTORE_SYSROOT_S3, KUBERNETES_CONTAINER_IMAGE

from progdistill.argo_template import install
from progdistill.config.options import RUN_OPTIONS, RunOption, RunOptions, resolve_options
from progdistill.config.sweep import SWEEP_OPTIONS, SweepOptions, resolve_sweep
from progdistill.errors import UsageError

if TYPE_CHECKING:
    # Imported late: every task of a local run imports this file too.
    from progdistill.config.deployment import DeploymentSettings, PodSettings

DEFAULTS = "{}"

STORE_IN_DATASTORE = "progdistill"
"""The default store, below Metaflow's datastore."""


def read_deployment(text: str) -> dict[str, Any]:
    """Parse and check a deployment; Metaflow stores it with the flow as plain values."""
    return _read(text, "DeploymentSettings")


def read_sweep_deployment(text: str) -> dict[str, Any]:
    """As `read_deployment`, of a sweep."""
    return _read(text, "SweepDeployment")


def _read(text: str, kind: str) -> dict[str, Any]:
    if text == DEFAULTS:
        return {}
    from progdistill.config import deployment

    try:
        return deployment.parse_deployment(text, getattr(deployment, kind)).model_dump(mode="json")
    except UsageError as error:
        raise MetaflowException(str(error)) from None


class RunParameters(FlowMutator):
    """Adds the run options as parameters, and for Argo the deployment."""

    options = RUN_OPTIONS
    deployment_kind = "DeploymentSettings"

    def pre_mutate(self, mutable_flow: Any) -> None:
        """Add parameters; in `argo-workflows` commands and their pods, schedule, options and pods."""
        for_argo, in_pod = "argo-workflows" in sys.argv, "ARGO_WORKFLOW_TEMPLATE" in os.environ
        if not for_argo:
            for option in self.options:
                repeat = {"multiple": True, "default": ()} if option.repeatable else {"default": None}
                _add_parameter(mutable_flow, option, **repeat)
        if not (for_argo or in_pod):
            return
        from progdistill.config import deployment as kinds

        kind: type[DeploymentSettings] = getattr(kinds, self.deployment_kind)
        deployment = kind.model_validate(dict(mutable_flow.configs)["deployment"].to_dict())
        if for_argo and "create" in sys.argv:
            _require_image(deployment)
            install(deployment.priority_class)
            _add_schedule(mutable_flow, deployment)
            self._add_parameters(mutable_flow, deployed_options(deployment))
        elif for_argo:
            # `trigger` sends what is typed; Argo has the rest.
            self._add_parameters(mutable_flow, type(deployment.run_options)())
        steps = dict(mutable_flow.steps)
        if unknown := sorted(deployment.steps.keys() - steps.keys()):
            known = ", ".join(steps)
            raise MetaflowException(f"deployment: unknown step {unknown[0]}; steps are {known}")
        for name, step in steps.items():
            _add_pod(step, deployment, deployment.pod_of(name))

    def _add_parameters(self, mutable_flow: Any, options: RunOptions) -> None:
        for option in self.options:
            value = getattr(options, option.field)
            # Argo passes a list as text that no command line reads; a pod splits text at its spaces.
            default = (" ".join(map(str, value)) or None) if option.repeatable else value
            _add_parameter(mutable_flow, option, default=default)


class SweepParameters(RunParameters):
    """Adds the options of a sweep as parameters, and for Argo its deployment."""

    options = SWEEP_OPTIONS
    deployment_kind = "SweepDeployment"


def _add_parameter(mutable_flow: Any, option: RunOption, **settings: Any) -> None:
    parameter = Parameter(option.parameter, type=option.type, help=option.help, **settings)
    mutable_flow.add_parameter(option.field, parameter, overwrite=True)


def _require_image(deployment: "DeploymentSettings") -> None:
    if "--only-json" not in sys.argv and not (deployment.image or KUBERNETES_CONTAINER_IMAGE):
        raise MetaflowException(
            "deployment: no image is set, and Metaflow's default image lacks this package: set `image`, or"
            " METAFLOW_KUBERNETES_CONTAINER_IMAGE in your Metaflow profile"
        )


def deployed_options(deployment: "DeploymentSettings") -> RunOptions:
    """The options of scheduled runs: the deployment's, then those of the environment and progdistill.toml."""
    from progdistill.config.settings import check_paths
    from progdistill.run.reproduce import check_reproduce
    from progdistill.run.sweep import checked_grid

    try:
        typed = deployment.run_options
        options = (resolve_sweep if isinstance(typed, SweepOptions) else resolve_options)(dict(typed))
        check_reproduce(options)
        check_paths(options.set)
        if isinstance(options, SweepOptions):
            checked_grid(options)
    except UsageError as error:
        raise MetaflowException(str(error)) from None
    if any(" " in str(item) for item in (*options.set, *getattr(options, "over", ()))):
        raise MetaflowException("deployment: values in options.set and options.over must not contain spaces")
    if options.store is None and DATASTORE_SYSROOT_S3:
        beside = f"{DATASTORE_SYSROOT_S3.rstrip('/')}/{STORE_IN_DATASTORE}"
        options = options.model_copy(update={"store": beside})
    if options.store is None or "://" not in options.store:
        raise MetaflowException(
            f"deployment: store is {options.store or 'not set'}, but a pod's disk is gone when the pod ends:"
            " set options.store or PROGDISTILL_STORE to s3://bucket/prefix"
        )
    return options


def _add_schedule(mutable_flow: Any, deployment: "DeploymentSettings") -> None:
    if deployment.cron:
        schedule = {"cron": deployment.cron, "timezone": deployment.timezone}
        mutable_flow.add_decorator("schedule", deco_kwargs=schedule)


KUBERNETES_FIELDS = {
    *("image", "image_pull_policy", "image_pull_secrets", "service_account", "secrets", "node_selector"),
    *("tolerations", "labels", "annotations", "security_context"),
}
"""Fields of a deployment that Metaflow's `@kubernetes` has by the same names."""


def _add_pod(step: Any, deployment: "DeploymentSettings", pod: "PodSettings") -> None:
    kubernetes = {
        **{"cpu": pod.cpu, "memory": pod.memory_mib, "disk": pod.disk_mib, "gpu": pod.gpus},
        # Limits equal to requests: a namespace's default limit may be lower than the request, and refuses the pod.
        "qos": "guaranteed",
        **deployment.model_dump(mode="json", include=KUBERNETES_FIELDS),
    }
    step.add_decorator("kubernetes", deco_kwargs={k: v for k, v in kubernetes.items() if v})
    step.add_decorator("timeout", deco_kwargs={"minutes": pod.timeout_minutes})
    if pod.retries:
        wait = pod.minutes_between_retries
        step.add_decorator("retry", deco_kwargs={"times": pod.retries, "minutes_between_retries": wait})
    if deployment.environment:
        step.add_decorator("environment", deco_kwargs={"vars": deployment.environment})
