"""What pods get beyond what the launcher gives them: the ways out for what it does not know."""

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field, JsonValue

from progdistill.config.pod_patch import check_patch
from progdistill.config.secrets import PlainVariables
from progdistill.models_base import Frozen

_KEY: Final = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_RESERVED: Final = re.compile(
    r"progdistill/|app\.kubernetes\.io/(name|managed-by)$|batch\.kubernetes\.io/|kueue\.x-k8s\.io/queue-name$"
)
_RESOURCE: Final = re.compile(r"hugepages-\w+|[a-z0-9][-a-z0-9.]*/[A-Za-z0-9][-A-Za-z0-9_.]*")
_QUANTITY: Final = re.compile(r"[1-9]\d*([kMGTPE]i?)?")
_AFFINITIES: Final = ("nodeAffinity", "podAffinity", "podAntiAffinity")
_SECURITY: Final = (
    *("allowPrivilegeEscalation", "appArmorProfile", "capabilities", "privileged", "procMount"),
    *("readOnlyRootFilesystem", "runAsGroup", "runAsNonRoot", "runAsUser", "seLinuxOptions", "seccompProfile"),
)


def _keys(pairs: dict[str, str]) -> dict[str, str]:
    for key in pairs:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key: Kubernetes takes name or domain/name, of letters, digits and -_.")
        if _RESERVED.match(key):
            raise ValueError(f"{key} is set by the launcher; a queue is set with queue=…")
    return pairs


def _labels(labels: dict[str, str]) -> dict[str, str]:
    for key, value in labels.items():
        if not _LABEL_VALUE.fullmatch(value):
            raise ValueError(f"{key} = {value!r}: a label has at most 63 letters, digits and -_.")
    return _keys(labels)


def _resources(resources: dict[str, str]) -> dict[str, str]:
    for name, amount in resources.items():
        if not _RESOURCE.fullmatch(name):
            raise ValueError(
                f"{name!r} is no resource of a device plugin, such as vpc.amazonaws.com/efa, and no hugepages"
            )
        if not _QUANTITY.fullmatch(amount):
            raise ValueError(f'{name} = {amount!r}: write a whole amount as text, such as "4" or "2Gi"')
    return resources


def _affinity(affinity: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return _known(affinity, _AFFINITIES)


def _security(context: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return _known(context, _SECURITY)


def _known(fields: dict[str, JsonValue], names: tuple[str, ...]) -> dict[str, JsonValue]:
    if unknown := sorted(fields.keys() - set(names)):
        raise ValueError(f"unknown field {unknown[0]}; Kubernetes has {', '.join(names)}")
    return fields


class PodExtras(Frozen):
    """None of it is part of a job's identity. Values of a kind of job go over those of all pods."""

    env: PlainVariables = Field(default_factory=dict, description="plain values, such as AWS_REGION; no secrets")
    labels: Annotated[dict[str, str], AfterValidator(_labels)] = Field(
        default_factory=dict, description="of Jobs and pods"
    )
    annotations: Annotated[dict[str, str], AfterValidator(_keys)] = Field(
        default_factory=dict, description="of Jobs and pods, such as Kueue's topology hints"
    )
    extra_resources: Annotated[dict[str, str], AfterValidator(_resources)] = Field(
        default_factory=dict, description="more resources of each pod: EFA, RDMA, hugepages"
    )
    affinity: Annotated[dict[str, JsonValue], AfterValidator(_affinity)] = Field(
        default_factory=dict, description="to nodes and pods, as in Kubernetes"
    )
    security_context: Annotated[dict[str, JsonValue], AfterValidator(_security)] = Field(
        default_factory=dict, description="of the container, as in Kubernetes, over the restricted one"
    )
    pod_patch: Annotated[dict[str, JsonValue], AfterValidator(check_patch)] = Field(
        default_factory=dict, description="last resort: a strategic merge patch of the pod's spec"
    )
