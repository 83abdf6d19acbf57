"""A scheduled deployment of the flow: schedule, options and pods."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue, ValidationError

from progdistill.config.options import RunOptions, options_of_table
from progdistill.config.secrets import PlainVariables
from progdistill.config.sweep import SweepOptions, sweep_options_of_table
from progdistill.errors import UsageError
from progdistill.models_base import Frozen, first_problem, parse_json, parse_toml

_CRON_FIELD = re.compile(r"[0-9A-Za-z*/,\-]+")


def _cron(text: str) -> str:
    fields = text.split()
    if text and (len(fields) != 5 or not all(_CRON_FIELD.fullmatch(field) for field in fields)):
        raise ValueError("write five cron fields: minute, hour, day of month, month, day of week")
    return text


def _known_options(options: dict[str, JsonValue]) -> dict[str, JsonValue]:
    options_of_table(options, "deployment: options")
    return options


def _known_sweep_options(options: dict[str, JsonValue]) -> dict[str, JsonValue]:
    sweep_options_of_table(options, "deployment: options")
    return options


class PodSettings(Frozen):
    """The pod of a step. It submits jobs to a launcher; with the local launcher they run in it."""

    cpu: float = Field(1, gt=0, description="cores")
    memory_mib: int = Field(4096, gt=0, description="in units of 2^20 bytes")
    disk_mib: int = Field(10240, gt=0, description="in units of 2^20 bytes")
    gpus: int | None = Field(None, gt=0, description="only where the local launcher trains in the pod itself")
    timeout_minutes: int = Field(60, gt=0, description="of one attempt, after which its pod is stopped")
    retries: int = Field(3, ge=0, description="a new attempt continues the job of the previous attempt")
    minutes_between_retries: int = Field(2, ge=0, description="pause before a new attempt")


_WEEK = 7 * 24 * 60
LONG_STEPS: dict[str, dict[str, JsonValue]] = {
    "train_base": {"timeout_minutes": 4 * _WEEK},
    "distill": {"timeout_minutes": 2 * _WEEK},
    "plan_evaluation": {"timeout_minutes": 24 * 60},
    "evaluate_fid": {"timeout_minutes": 2 * 24 * 60},
    "prepare_evaluator": {"timeout_minutes": 24 * 60},
    "train_shared": {"timeout_minutes": 4 * _WEEK},
    "run_member": {"timeout_minutes": 4 * _WEEK},
}
"""Steps that wait for jobs of hours or weeks; the others take minutes."""


class DeploymentSettings(Frozen):
    """One deployment. By default the run of the alias `production` is reproduced every Sunday."""

    cron: Annotated[str, AfterValidator(_cron)] = Field("0 3 * * 0", description="empty: by hand only")
    timezone: str | None = Field(None, description="IANA name such as Europe/Vienna; None: UTC")
    options: Annotated[dict[str, JsonValue], AfterValidator(_known_options)] = Field(
        default={"reproduce": "production"}, description="options of `run`, with `set` as a table"
    )
    image: str | None = Field(None, description="of the steps; None: METAFLOW_KUBERNETES_CONTAINER_IMAGE")
    image_pull_policy: str | None = Field(
        None, pattern="^(Always|IfNotPresent|Never)$", description="None: the cluster's default"
    )
    image_pull_secrets: tuple[str, ...] = Field((), description="names of Kubernetes Secrets")
    service_account: str | None = Field(None, description="of the steps; None: METAFLOW_KUBERNETES_SERVICE_ACCOUNT")
    secrets: tuple[str, ...] = Field((), description="names of Kubernetes Secrets, read as variables")
    environment: PlainVariables = Field(default={}, description="plain variables of the steps, no secrets")
    node_selector: dict[str, str] = Field(default={}, description="labels that the steps' nodes must have")
    tolerations: tuple[dict[str, JsonValue], ...] = Field((), description="of taints, as in Kubernetes")
    priority_class: str | None = Field(None, description="PriorityClass of the steps' pods")
    labels: dict[str, str] = Field(default={}, description="of the steps' pods")
    annotations: dict[str, str] = Field(default={}, description="of the steps' pods")
    security_context: dict[str, JsonValue] = Field(default={}, description="of the steps' containers, as in Kubernetes")
    pod: dict[str, JsonValue] = Field(default={}, description="fields of PodSettings, for every step")
    steps: dict[str, dict[str, JsonValue]] = Field(
        default={}, description="fields of PodSettings by step, over those of `pod` and of LONG_STEPS"
    )

    @property
    def run_options(self) -> RunOptions:
        """The options as a run takes them."""
        return RunOptions(**options_of_table(self.options, "deployment: options"))

    def pod_of(self, step: str) -> PodSettings:
        """The pod of a step: defaults, then LONG_STEPS, then `steps`."""
        fields = {**self.pod, **LONG_STEPS.get(step, {}), **self.steps.get(step, {})}
        return PodSettings.model_validate(fields)


class SweepDeployment(DeploymentSettings):
    """One deployment of a sweep. By default the sweep of `options` is made every Sunday."""

    options: Annotated[dict[str, JsonValue], AfterValidator(_known_sweep_options)] = Field(
        default={}, description="options of `sweep`, with `set` and `over` as tables"
    )

    @property
    def run_options(self) -> SweepOptions:
        """The options as a sweep takes them."""
        return SweepOptions(**sweep_options_of_table(self.options, "deployment: options"))


def parse_deployment(text: str, kind: type[DeploymentSettings] = DeploymentSettings) -> DeploymentSettings:
    """Read TOML, or JSON where it begins with a brace; UsageError names the bad value."""
    try:
        table = parse_json(text) if text.lstrip().startswith("{") else parse_toml(text)
        settings = kind.model_validate(table)
        for step in ("start", *settings.steps):
            settings.pod_of(step)
        return settings
    except ValidationError as error:
        raise UsageError(f"deployment: {first_problem(error)}") from None
    except ValueError as error:
        raise UsageError(f"the deployment is not valid TOML or JSON: {error}") from None
