"""Settings of a run on a Kubernetes cluster. They hold no secrets."""

import math
from enum import StrEnum
from typing import Literal, Self

from pydantic import Field, model_validator

from progdistill.config.pods import PodExtras
from progdistill.models_base import Frozen

TPU: str = "google.com/tpu"
"""The resource name of TPU chips on GKE."""


class OnInterrupt(StrEnum):
    """What happens to a running Job when its driver is interrupted."""

    ASK = "ask"
    LEAVE = "leave"
    DELETE = "delete"


class Toleration(Frozen, allow_inf_nan=False):
    """A toleration of a taint; fields as in Kubernetes."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class StepResources(PodExtras, allow_inf_nan=False):
    """What each pod of a kind of job gets. One pod is one host, and all hosts are alike."""

    hosts: int = Field(1, gt=0, description="pods of the job; for a TPU slice the topology decides")
    accelerator: str | None = Field(None, description="resource: nvidia.com/gpu, amd.com/gpu, google.com/tpu")
    accelerators_per_host: int = Field(0, ge=0, description="and ranks per host; 0: one rank, on CPUs")
    tpu_type: str | None = Field(None, description="GKE's cloud.google.com/gke-tpu-accelerator")
    tpu_topology: str | None = Field(None, pattern=r"^\d+x\d+(x\d+)?$", description="such as 2x4")
    cpu: float = Field(2.0, gt=0, description="cores")
    memory_gib: float = Field(8.0, gt=0, description="of the pod; with more it is killed")
    disk_gib: float = Field(20.0, gt=0, description="ephemeral storage: store cache and temporary files")
    shared_memory_gib: float = Field(1.0, gt=0, description="/dev/shm; counts as memory")
    node_selector: dict[str, str] = Field(default_factory=dict, description="labels that nodes must have")
    tolerations: tuple[Toleration, ...] = Field((), description="of taints, as in Kubernetes")
    priority_class: str | None = Field(None, description="of the pods; None: the cluster's default")
    queue: str | None = Field(None, description="Kueue local queue")
    service_account: str | None = Field(None, description="None: that of cluster")
    image: str | None = Field(None, description="None: that of cluster")

    @property
    def processes_per_host(self) -> int:
        """Ranks per host: one per accelerator, or one without accelerators."""
        return max(1, self.accelerators_per_host)

    @property
    def host_count(self) -> int:
        """Pods of the job; for a TPU slice, its chips divided by those of a host."""
        return self.hosts if self.tpu_topology is None else self._chips // self.accelerators_per_host

    @property
    def _chips(self) -> int:
        return math.prod(map(int, (self.tpu_topology or "1").split("x")))

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return self.host_count * self.processes_per_host

    @property
    def device_kind(self) -> Literal["cuda", "tpu", "cpu"]:
        """The kind of device that networks run on."""
        if self.accelerator is None:
            return "cpu"
        return "tpu" if self.accelerator == TPU else "cuda"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.accelerator is None) != (self.accelerators_per_host == 0):
            raise ValueError("accelerator and accelerators_per_host go together: set both or neither")
        if self.accelerator in self.extra_resources:
            raise ValueError(f"{self.accelerator} is in extra_resources too: accelerators_per_host decides its amount")
        if (self.tpu_topology is None) != (self.tpu_type is None):
            raise ValueError("tpu_type and tpu_topology go together: set both or neither")
        if (self.accelerator == TPU) != (self.tpu_topology is not None):
            raise ValueError(f"a TPU slice needs accelerator={TPU}, tpu_type and tpu_topology")
        if self.tpu_topology is None:
            return self
        if self._chips % self.accelerators_per_host:
            raise ValueError(
                f"topology {self.tpu_topology} has {self._chips} chips, which is not a multiple of"
                f" accelerators_per_host = {self.accelerators_per_host}"
            )
        if self.hosts not in (1, self.host_count):
            raise ValueError(f"topology {self.tpu_topology} needs {self.host_count} hosts, not {self.hosts}")
        return self


class ClusterSettings(PodExtras, allow_inf_nan=False):
    """How jobs run in pods. Only the world sizes of `train` and `distill` change the numbers of a run."""

    namespace: str | None = Field(None, description="None: that of the kubeconfig, or of the driver's pod")
    context: str | None = Field(None, description="kubeconfig context; None: the current one")
    image: str | None = Field(None, description="the pods' image; use a digest for a reproducible run")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field("IfNotPresent", description="of the pods")
    image_pull_secrets: tuple[str, ...] = Field((), description="names of Secrets")
    service_account: str | None = Field(None, description="of the pods; None: the namespace's default")
    env_from_secrets: tuple[str, ...] = Field((), description="names of Secrets; their keys become variables")
    volumes: dict[str, str] = Field(default_factory=dict, description="persistent volume claim → mount path")
    run_as_user: int = Field(1000, gt=0, description="numeric user of the pods' processes")
    backoff_limit: int = Field(5, ge=0, description="retries after pod failures; disruptions do not count")
    deadline_hours: float | None = Field(None, gt=0, description="a job that takes longer fails")
    ttl_hours: float = Field(24.0, gt=0, description="lifetime of a finished or failed Job")
    grace_seconds: int = Field(120, gt=0, description="from SIGTERM to SIGKILL: time to save a snapshot")
    on_interrupt: OnInterrupt = Field(OnInterrupt.ASK, description="ask means leave without a terminal")
    api_timeout_seconds: float = Field(900.0, gt=0, description="how long the API server may be unreachable")
    image_pull_timeout_seconds: float = Field(300.0, gt=0, description="how long an image pull may fail")

    train: StepResources = StepResources()
    distill: StepResources = StepResources()
    evaluate: StepResources = StepResources()

    def for_kind(self, kind: str) -> tuple[str, StepResources]:
        """The name and the value of the resources for a kind of job."""
        name = {"train_base": "train", "guide": "distill", "distill": "distill"}.get(kind, "evaluate")
        resources: StepResources = getattr(self, name)
        return name, resources

    def image_of(self, resources: StepResources) -> str | None:
        """The image of a pod; None if none is set."""
        return resources.image or self.image

    def mount_of(self, path: str) -> str | None:
        """The mount path that contains `path`; None if pods do not mount it."""
        under = (mount for mount in self.volumes.values() if f"{path}/".startswith(f"{mount.rstrip('/')}/"))
        return next(under, None)
