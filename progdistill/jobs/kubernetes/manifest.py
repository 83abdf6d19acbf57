"""What is sent to a cluster for a job: an Indexed Job and a headless Service, or a JobSet. Plain JSON."""

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
_JOBSET_GROUP: Final = "workers"

Manifest = dict[str, Any]


class Submission(NamedTuple):
    """A job's request with the settings that its pods get."""

    request: JobRequest
    cluster: ClusterSettings
    store_uri: str

    @property
    def name(self) -> str:
        """Of the Job and all that is its own: the same whoever submits it, so that none runs twice."""
        spec = self.request.spec
        return f"progdistill-{spec.kind.replace('_', '-')}-{spec.id[:12]}"

    @property
    def setting(self) -> str:
        """Where the configuration says what these pods get."""
        return f"cluster.{self.cluster.for_kind(self.request.spec.kind)[0]}"

    @property
    def resources(self) -> StepResources:
        """What each of the pods gets."""
        return self.cluster.for_kind(self.request.spec.kind)[1]

    @property
    def processes(self) -> int:
        """Ranks on one host; a job of one rank, such as the evaluator's, takes one host whatever is set."""
        return min(self.request.spec.world_size, self.resources.processes_per_host)

    @property
    def hosts(self) -> int:
        """Pods of the job."""
        return self.request.spec.world_size // self.processes

    @property
    def port(self) -> int:
        """Where rank 0 is met: outside the ephemeral ports, and another one for another job on one host."""
        return 20_000 + int(self.request.spec.id[:8], 16) % 10_000


def submission_for(request: JobRequest, cluster: ClusterSettings, store: Store) -> Submission:
    """Bind a request to a cluster: no driver for workers to watch, and as many threads as pods have cores."""
    resources = cluster.for_kind(request.spec.kind)[1]
    threads = request.compute.threads_per_rank or max(1, int(resources.cpu / resources.processes_per_host))
    compute = request.compute.model_copy(update={"threads_per_rank": threads})
    changes = {"driver_process_id": None, "compute": compute, "store": store.uri}
    return Submission(request.model_copy(update=changes), cluster, store.uri)


def job_manifest(submission: Submission) -> Manifest:
    """The Indexed Job: one pod a host; what a pod's end means to the gang is in its podFailurePolicy."""
    address = f"{submission.name}-0.{submission.name}"
    manifest: Manifest = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(submission),
        "spec": _job_spec(submission, address, submission.cluster.max_gang_restarts),
    }
    if submission.resources.queue is not None:
        manifest["metadata"]["labels"][QUEUE_LABEL] = submission.resources.queue
        manifest["spec"]["suspend"] = True  # until Kueue admits it
    manifest["spec"]["ttlSecondsAfterFinished"] = round(submission.cluster.ttl_hours * 3600)
    return manifest


def service_manifest(submission: Submission, job_uid: str | None) -> Manifest:
    """The headless Service that gives pods their names, ready or not; it goes when the Job goes."""
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


def jobset_manifest(submission: Submission) -> Manifest:
    """The same as a JobSet, whose controller makes the Job and the Service, and restarts all pods as one."""
    address = f"{submission.name}-{_JOBSET_GROUP}-0-0.{submission.name}"
    job = _job_spec(submission, address, backoff_limit=0)
    manifest: Manifest = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": _metadata(submission),
        "spec": {
            "ttlSecondsAfterFinished": round(submission.cluster.ttl_hours * 3600),
            "network": {
                "enableDNSHostnames": True,
                "subdomain": submission.name,
                "publishNotReadyAddresses": True,
            },
            "failurePolicy": {
                "maxRestarts": submission.cluster.max_gang_restarts,
                "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [{"name": _JOBSET_GROUP, "replicas": 1, "template": {"spec": job}}],
        },
    }
    del job["template"]["spec"]["subdomain"]
    if submission.resources.queue is not None:
        manifest["metadata"]["labels"][QUEUE_LABEL] = submission.resources.queue
        manifest["spec"]["suspend"] = True
    return manifest


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
    lineage = getattr(spec, "teacher", getattr(spec, "checkpoint", None))
    annotations = {
        "progdistill/job-id": spec.id,
        "progdistill/label": spec.label,
        "progdistill/creator-run": submission.request.created_by,
        STORE_ANNOTATION: submission.store_uri,
    }
    if lineage is not None:
        annotations["progdistill/parent"] = lineage
    steps = getattr(spec, "student_steps", getattr(spec, "sampling_steps", None))
    if steps is not None:
        labels["progdistill/steps"] = str(steps)
    return {"name": submission.name, "labels": labels, "annotations": annotations}


def _label(text: str) -> str:
    """The text as a label's value can hold it."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)[:63].strip("-_.")


def _job_spec(submission: Submission, address: str, backoff_limit: int) -> Manifest:
    hosts, cluster = submission.hosts, submission.cluster
    metadata = _metadata(submission)
    del metadata["name"]
    spec: Manifest = {
        "completionMode": "Indexed",
        "completions": hosts,
        "parallelism": hosts,
        "backoffLimit": backoff_limit,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": _FAILURE_RULES},
        "template": {"metadata": metadata, "spec": _pod_spec(submission, address)},
    }
    if cluster.deadline_hours is not None:
        spec["activeDeadlineSeconds"] = round(cluster.deadline_hours * 3600)
    return spec


_FAILURE_RULES: Final[list[Manifest]] = [
    # Evicted, preempted, drained: nobody's fault.
    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    # Stopped with a snapshot, as all ranks are when one of them is evicted; or a rank that lost another,
    # whose own end counts.
    {
        "action": "Ignore",
        "onExitCodes": {"operator": "In", "values": [PeerLostError.exit_status, Interrupted.exit_status]},
    },
    # A bad setting stays bad.
    {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [UsageError.exit_status]}},
]
"""The first rule that fits decides; what none fits counts against backoffLimit."""


def _pod_spec(submission: Submission, address: str) -> Manifest:
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
        "containers": [_container(submission, address)],
        "volumes": _volumes(submission),
    }
    optional: Manifest = {
        "serviceAccountName": resources.service_account or cluster.service_account,
        "priorityClassName": resources.priority_class,
        "nodeSelector": _node_selector(resources),
        "tolerations": [t.model_dump(mode="json", exclude_none=True) for t in resources.tolerations],
        "imagePullSecrets": [{"name": name} for name in cluster.image_pull_secrets],
    }
    return {**spec, **{key: value for key, value in optional.items() if value}}


def _node_selector(resources: StepResources) -> dict[str, str]:
    if resources.tpu_type is None or resources.tpu_topology is None:
        return resources.node_selector
    return {
        "cloud.google.com/gke-tpu-accelerator": resources.tpu_type,
        "cloud.google.com/gke-tpu-topology": resources.tpu_topology,
        **resources.node_selector,
    }


def _container(submission: Submission, address: str) -> Manifest:
    cluster, resources, spec = submission.cluster, submission.resources, submission.request.spec
    values = {
        "HOME": "/tmp",
        "XDG_CACHE_HOME": "/cache",
        "PROGDISTILL_CACHE": "/cache/store",
        **cluster.env,
        **resources.env,
        "MASTER_ADDR": address,
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
        "env": [*({"name": name, "value": value} for name, value in values.items()), _GANG],
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


_GANG: Final[Manifest] = {
    "name": "PROGDISTILL_GANG",
    "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/controller-uid']"}},
}
"""The Job's uid: its pods meet no pod of an earlier Job of the same name."""


def _resource_quantities(resources: StepResources) -> Manifest:
    """Memory is limited to what is requested, as is what accelerators demand; CPU is not throttled."""
    memory = {"memory": _mebibytes(resources.memory_gib), "ephemeral-storage": _mebibytes(resources.disk_gib)}
    chips = {}
    if resources.accelerator is not None:
        chips = {resources.accelerator: str(resources.accelerators_per_host)}
    cpu = {"cpu": f"{round(resources.cpu * 1000)}m"}
    return {"requests": {**cpu, **memory, **chips}, "limits": {**memory, **chips}}


def _volumes(submission: Submission) -> list[Manifest]:
    resources = submission.resources
    shared = {"medium": "Memory", "sizeLimit": _mebibytes(resources.shared_memory_gib)}
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
