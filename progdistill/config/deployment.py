"""What a scheduled deployment of the flow needs beside the flow: when, with which options, in what pods."""

import re
import tomllib
from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue, ValidationError

from progdistill.config.cluster import PlainVariables
from progdistill.config.options import RUN_OPTIONS
from progdistill.errors import UsageError
from progdistill.models_base import Frozen

_CRON_FIELD = re.compile(r"[0-9A-Za-z*/,\-]+")


def _cron(text: str) -> str:
    fields = text.split()
    if text and (len(fields) != 5 or not all(_CRON_FIELD.fullmatch(field) for field in fields)):
        raise ValueError("write five cron fields: minute, hour, day of month, month, day of week")
    return text


def _known_options(options: dict[str, JsonValue]) -> dict[str, JsonValue]:
    known = {option.name: option for option in RUN_OPTIONS}
    for name, value in options.items():
        if name not in known:
            raise ValueError(f"{name} is no option of a run; known are {', '.join(sorted(known))}")
        if type(value) is not (dict if known[name].repeatable else known[name].type):
            raise ValueError(f"{name} = {value!r} is not what --{name} takes")
    return options


class PodSettings(Frozen):
    """The pod of a step. It hands jobs to a launcher, and holds them itself with the local one."""

    cpu: float = Field(1, gt=0)
    memory_mib: int = Field(4096, gt=0)
    disk_mib: int = Field(10240, gt=0)
    gpus: int | None = Field(None, gt=0, description="only where the local launcher trains in the pod itself")
    timeout_minutes: int = Field(60, gt=0, description="of one attempt, after which its pod is stopped")
    retries: int = Field(3, ge=0, description="a new attempt goes on with the job of the one before")
    minutes_between_retries: int = Field(2, ge=0)


_WEEK = 7 * 24 * 60
LONG_STEPS: dict[str, dict[str, JsonValue]] = {
    "train_base": {"timeout_minutes": 4 * _WEEK},
    "distill": {"timeout_minutes": 2 * _WEEK},
    "plan_evaluation": {"timeout_minutes": 24 * 60},
    "evaluate_fid": {"timeout_minutes": 2 * 24 * 60},
}
"""Steps that wait for work of hours or weeks; the others are done in minutes."""


class DeploymentSettings(Frozen):
    """One deployment. The defaults redo, every Sunday, the run behind the alias `production`."""

    cron: Annotated[str, AfterValidator(_cron)] = Field("0 3 * * 0", description="empty: by hand only")
    timezone: str | None = Field(None, description="IANA name such as Europe/Vienna; None: UTC")
    options: Annotated[dict[str, JsonValue], AfterValidator(_known_options)] = Field(
        default={"like": "production"}, description="what `run` would be given, `set` as a table"
    )
    image: str | None = Field(None, description="of the steps; None: METAFLOW_KUBERNETES_CONTAINER_IMAGE")
    image_pull_policy: str | None = Field(None, pattern="^(Always|IfNotPresent|Never)$")
    image_pull_secrets: tuple[str, ...] = ()
    service_account: str | None = Field(
        None, description="of the steps; None: METAFLOW_KUBERNETES_SERVICE_ACCOUNT"
    )
    secrets: tuple[str, ...] = Field((), description="names of Kubernetes Secrets, read as variables")
    environment: PlainVariables = Field(
        default={}, description="plain variables of the steps; secrets have no place here"
    )
    node_selector: dict[str, str] = {}
    tolerations: tuple[dict[str, JsonValue], ...] = ()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    security_context: dict[str, JsonValue] = {}
    pod: dict[str, JsonValue] = Field(default={}, description="fields of PodSettings, for every step")
    steps: dict[str, dict[str, JsonValue]] = Field(
        default={}, description="fields of PodSettings by step, over those of `pod` and of LONG_STEPS"
    )

    def pod_of(self, step: str) -> PodSettings:
        """The pod of a step."""
        fields = {**self.pod, **LONG_STEPS.get(step, {}), **self.steps.get(step, {})}
        return PodSettings.model_validate(fields)


def parse_deployment(text: str) -> DeploymentSettings:
    """Read TOML, or JSON where it begins with a brace; UsageError says which value is wrong."""
    try:
        if text.lstrip().startswith("{"):
            settings = DeploymentSettings.model_validate_json(text)
        else:
            settings = DeploymentSettings.model_validate(tomllib.loads(text))
        for step in ("start", *settings.steps):
            settings.pod_of(step)
        return settings
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the deployment is not valid TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"deployment: {where} = {first['input']!r}: {first['msg']}") from None
