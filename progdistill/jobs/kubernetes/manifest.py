"""The manifests of a job: an Indexed Job, one pod per host, and the headless Service that names the pods."""

import re
from typing import Any, Final, NamedTuple

from progdistill.config.cluster import ClusterSettings, StepResources
from progdistill.errors import Interrupted, PeerLostError, UsageError
from progdistill.jobs.spec import JobRequest
from progdistill.store.base import Store

JOB_LABEL: Final = "progdistill/job"
STORE_ANNOTATION: Final = "progdistill/store"
QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"
CONTAINER: Final = "worker"

Manifest = dict[str, Any]


class Submission(NamedTuple):
    """A job's request, and the cluster settings that its pods get."""

    request: JobRequest
    cluster: ClusterSettings
    store_uri: str

    @property
    def name(self) -> str:
        """The name of the Job and its Service: derived from the job's id, so that no job runs twice."""
        spec = self.request.spec
        return f"progdistill-{spec.kind.replace('_', '-')}-{spec.id[:12]}"

    @property
    def setting(self) -> str:
        """The path of the pods' settings."""
        return f"cluster.{self.cluster.for_kind(self.request.spec.kind)[0]}"

    @property
    def resources(self) -> StepResources:
        """What each pod gets."""
        return self.cluster.for_kind(self.request.spec.kind)[1]

    @property
    def processes(self) -> int:
        """Ranks per host; a job of one rank runs on one host, whatever is set."""
        return min(self.request.spec.world_size, self.resources.processes_per_host)

    @property
    def hosts(self) -> int:
        """The number of pods."""
        return self.request.spec.world_size // self.processes

    @property
    def port(self) -> int:
        """The rendezvous port: derived from the id, since jobs may share a host; not ephemeral."""
        return 20_000 + int(self.request.spec.id[:8], 16) % 10_000


def submission_for(request: JobRequest, cluster: ClusterSettings, store: Store) -> Submission:
    """Adapt a request to pods: no driver process to watch, and as many threads as a pod has cores."""
    resources = cluster.for_kind(request.spec.kind)[1]
    threads = request.compute.threads_per_rank or max(1, int(resources.cpu / resources.processes_per_host))
    compute = request.compute.model_copy(update={"threads_per_rank": threads})
    changes = {"driver_process_id": None, "compute": compute, "store": store.uri}
    return Submission(request.model_copy(update=changes), cluster, store.uri)


def job_manifest(submission: Submission) -> Manifest:
    """The Indexed Job. Its podFailurePolicy decides what the end of a pod means."""
    cluster, hosts, metadata = submission.cluster, submission.hosts, _metadata(submission)
    pod_metadata = {key: dict(value) for key, value in metadata.items() if key != "name"}
    spec: Manifest = {
        "completionMode": "Indexed",
        "completions": hosts,
        "parallelism": hosts,
        "backoffLimit": cluster.backoff_limit,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": _FAILURE_RULES},
        "ttlSecondsAfterFinished": round(cluster.ttl_hours * 3600),
        "template": {"metadata": pod_metadata, "spec": _pod_spec(submission)},
    }
    if cluster.deadline_hours is not None:
        spec["activeDeadlineSeconds"] = round(cluster.deadline_hours * 3600)
    if submission.resources.queue is not None:
        metadata["labels"][QUEUE_LABEL] = submission.resources.queue
        spec["suspend"] = True  # until Kueue admits it
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def service_manifest(submission: Submission, job_uid: str | None) -> Manifest:
    """The headless Service that gives pods their DNS names, ready or not; owned by the Job."""
    metadata = _metadata(submission)
    if job_uid is not None:
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": submission.name, "uid": job_uid}
        metadata["ownerReferences"] = [owner]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {JOB_LABEL: submission.name},
            "ports": [{"name": "rendezvous", "port": submission.port, "protocol": "TCP"}],
        },
    }


def _metadata(submission: Submission) -> Manifest:
    spec = submission.request.spec
    flow, _, run = submission.request.created_by.partition("/")
    labels = {
        "app.kubernetes.io/name": "progdistill",
        "app.kubernetes.io/managed-by": "progdistill",
        JOB_LABEL: submission.name,
        "progdistill/kind": spec.kind,
        "progdistill/flow": _label(flow),
        "progdistill/run": _label(run),
    }
    annotations = {
        "progdistill/job-id": spec.id,
        "progdistill/label": spec.label,
        "progdistill/created-by": submission.request.created_by,
        STORE_ANNOTATION: submission.store_uri,
    }
    parent = getattr(spec, "teacher", getattr(spec, "checkpoint", None))
    if parent is not None:
        annotations["progdistill/parent"] = parent
    sampling_steps = getattr(spec, "student_steps", getattr(spec, "sampling_steps", None))
    if sampling_steps is not None:
        labels["progdistill/sampling-steps"] = str(sampling_steps)
    return {"name": submission.name, "labels": labels, "annotations": annotations}


def _label(text: str) -> str:
    """The text as a valid label value."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)[:63].strip("-_.")


def _on_exit_codes(action: str, *values: int) -> Manifest:
    # The container is named, since others may be injected into the pod.
    codes = {"containerName": CONTAINER, "operator": "In", "values": list(values)}
    return {"action": action, "onExitCodes": codes}


_FAILURE_RULES: Final[list[Manifest]] = [
    # Evicted, preempted, drained: nobody's fault.
    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    # Stopped with a snapshot, or lost the rendezvous with a pod whose own end counts.
    _on_exit_codes("Ignore", PeerLostError.exit_status, Interrupted.exit_status),
    # A wrong setting stays wrong.
    _on_exit_codes("FailJob", UsageError.exit_status),
]
"""The first rule that matches decides; a failure that none matches counts against backoffLimit."""


def _pod_spec(submission: Submission) -> Manifest:
    cluster, resources = submission.cluster, submission.resources
    spec: Manifest = {
        "restartPolicy": "Never",
        "subdomain": submission.name,
        "terminationGracePeriodSeconds": cluster.grace_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": cluster.run_as_user,
            "runAsGroup": cluster.run_as_user,
            "fsGroup": cluster.run_as_user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(submission)],
        "volumes": _volumes(submission),
    }
    gke = "cloud.google.com/gke-tpu-"
    tpu = {f"{gke}accelerator": resources.tpu_type, f"{gke}topology": resources.tpu_topology}
    optional: Manifest = {
        "serviceAccountName": resources.service_account or cluster.service_account,
        "priorityClassName": resources.priority_class,
        "nodeSelector": {**(tpu if resources.tpu_topology else {}), **resources.node_selector},
        "tolerations": [t.model_dump(mode="json", exclude_none=True) for t in resources.tolerations],
        "imagePullSecrets": [{"name": name} for name in cluster.image_pull_secrets],
    }
    return {**spec, **{key: value for key, value in optional.items() if value}}


def _container(submission: Submission) -> Manifest:
    cluster, resources, spec = submission.cluster, submission.resources, submission.request.spec
    values = {
        "HOME": "/tmp",
        "XDG_CACHE_HOME": "/cache",
        "PROGDISTILL_CACHE": "/cache/store",
        **cluster.env,
        **resources.env,
        "MASTER_ADDR": f"{submission.name}-0.{submission.name}",
        "MASTER_PORT": str(submission.port),
        "PYTHONUNBUFFERED": "1",
    }
    container: Manifest = {
        "name": CONTAINER,
        "image": cluster.image_of(resources),
        "imagePullPolicy": cluster.image_pull_policy,
        "command": ["python", "-m", "progdistill.jobs.kubernetes.pod"],
        "args": [
            f"--store={submission.store_uri}",
            f"--job={spec.id}",
            f"--processes={submission.processes}",
        ],
        "env": [*({"name": name, "value": value} for name, value in values.items()), _JOB_UID],
        "resources": _resource_quantities(resources),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "ports": [{"name": "rendezvous", "containerPort": submission.port}],
        "volumeMounts": [
            {"name": "shared-memory", "mountPath": "/dev/shm"},
            {"name": "temporary", "mountPath": "/tmp"},
            {"name": "cache", "mountPath": "/cache"},
            *({"name": _volume(claim), "mountPath": path} for claim, path in cluster.volumes.items()),
        ],
    }
    if cluster.env_from_secrets:
        container["envFrom"] = [{"secretRef": {"name": name}} for name in cluster.env_from_secrets]
    return container


_JOB_UID: Final[Manifest] = {
    "name": "PROGDISTILL_JOB_UID",
    "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/controller-uid']"}},
}
"""Tells the pods of this Job from those of an earlier Job of the same name."""


def _resource_quantities(resources: StepResources) -> Manifest:
    """Limits equal requests, except for CPU, which is not throttled."""
    limits = {"memory": _mebibytes(resources.memory_gib), "ephemeral-storage": _mebibytes(resources.disk_gib)}
    if resources.accelerator is not None:
        limits[resources.accelerator] = str(resources.accelerators_per_host)
    return {"requests": {"cpu": f"{round(resources.cpu * 1000)}m", **limits}, "limits": limits}


def _volumes(submission: Submission) -> list[Manifest]:
    shared = {"medium": "Memory", "sizeLimit": _mebibytes(submission.resources.shared_memory_gib)}
    claims = submission.cluster.volumes
    return [
        {"name": "shared-memory", "emptyDir": shared},
        {"name": "temporary", "emptyDir": {}},
        {"name": "cache", "emptyDir": {}},
        *({"name": _volume(claim), "persistentVolumeClaim": {"claimName": claim}} for claim in claims),
    ]


def _volume(claim: str) -> str:
    return f"claim-{re.sub('[^a-z0-9-]', '-', claim)}"[:63].rstrip("-")


def _mebibytes(gibibytes: float) -> str:
    return f"{round(gibibytes * 1024)}Mi"
