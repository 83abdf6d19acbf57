"""The manifests of a job: an Indexed Job, one pod per host, and the headless Service that names the pods.

What they hold is in `templates/`; here are the values.
"""

import re
from typing import Any, Final, NamedTuple

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from progdistill.config.cluster import ClusterSettings, StepResources
from progdistill.config.pod_patch import CONTAINER, patched
from progdistill.errors import Interrupted, NonFiniteError, PeerLostError, UsageError
from progdistill.jobs.spec import JobRequest
from progdistill.logs import LOG_FORMAT, is_json
from progdistill.store.base import Store

JOB_LABEL: Final = "progdistill/job"
CREATED_BY_ANNOTATION: Final = "progdistill/created-by"
STORE_ANNOTATION: Final = "progdistill/store"
QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"

Manifest = dict[str, Any]

_TEMPLATES: Final = Environment(
    loader=PackageLoader("progdistill.jobs.kubernetes"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


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
    """The Indexed Job."""
    cluster, resources, metadata = submission.cluster, submission.resources, _metadata(submission)
    pod_metadata = {"labels": dict(metadata["labels"]), "annotations": metadata["annotations"]}
    if resources.queue is not None:
        metadata["labels"][QUEUE_LABEL] = resources.queue
    job_id = submission.request.spec.id
    job = _rendered(
        "job.yaml.j2",
        metadata=metadata,
        pod_metadata=pod_metadata,
        name=submission.name,
        hosts=submission.hosts,
        port=submission.port,
        cluster=cluster,
        resources=resources,
        container=CONTAINER,
        ignored_statuses=[PeerLostError.exit_status, Interrupted.exit_status],
        final_statuses=[UsageError.exit_status, NonFiniteError.exit_status],
        optional=_optional(submission),
        image=cluster.image_of(resources),
        arguments=[f"--store={submission.store_uri}", f"--job={job_id}", f"--processes={submission.processes}"],
        environment=_environment(submission),
        quantities=_quantities(submission),
        shared_memory=_mebibytes(resources.shared_memory_gib),
        claims={_volume(claim): (claim, path) for claim, path in cluster.volumes.items()},
    )
    template = job["spec"]["template"]
    worker = {"name": CONTAINER, "securityContext": _extra(submission, "security_context")}
    for patch in ({"containers": [worker]}, cluster.pod_patch, resources.pod_patch):
        template["spec"] = patched(template["spec"], patch)
    return job


def service_manifest(submission: Submission, job_uid: str | None) -> Manifest:
    """The headless Service; owned by the Job with this uid, if there is one yet."""
    metadata = _metadata(submission)
    if job_uid is not None:
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": submission.name, "uid": job_uid}
        metadata["ownerReferences"] = [owner]
    return _rendered("service.yaml.j2", metadata=metadata, selector={JOB_LABEL: submission.name}, port=submission.port)


def _rendered(template: str, **values: object) -> Manifest:
    return dict(yaml.safe_load(_TEMPLATES.get_template(template).render(values)))


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
        **_extra(submission, "labels"),
    }
    annotations = {
        "progdistill/job-id": spec.id,
        "progdistill/label": spec.label,
        CREATED_BY_ANNOTATION: submission.request.created_by,
        STORE_ANNOTATION: submission.store_uri,
        **_extra(submission, "annotations"),
    }
    return {"name": submission.name, "labels": labels, "annotations": annotations}


def _extra(submission: Submission, name: str) -> Manifest:
    """A field of PodExtras: that of the kind of job over that of all pods."""
    merged: Manifest = patched(getattr(submission.cluster, name), getattr(submission.resources, name))
    return merged


def _label(text: str) -> str:
    """The text as a valid label value."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)[:63].strip("-_.")


def _optional(submission: Submission) -> Manifest:
    """Fields of the pod that are left out when empty."""
    cluster, resources = submission.cluster, submission.resources
    gke = "cloud.google.com/gke-tpu-"
    tpu = {f"{gke}accelerator": resources.tpu_type, f"{gke}topology": resources.tpu_topology}
    return {
        "serviceAccountName": resources.service_account or cluster.service_account,
        "priorityClassName": resources.priority_class,
        "nodeSelector": {**(tpu if resources.tpu_topology else {}), **resources.node_selector},
        "tolerations": [t.model_dump(mode="json", exclude_none=True) for t in resources.tolerations],
        "affinity": _extra(submission, "affinity"),
        "imagePullSecrets": [{"name": name} for name in cluster.image_pull_secrets],
    }


def _environment(submission: Submission) -> dict[str, str]:
    return {
        "HOME": "/tmp",
        "XDG_CACHE_HOME": "/cache",
        "PROGDISTILL_CACHE": "/cache/store",
        **({LOG_FORMAT: "json"} if is_json() else {}),
        **_extra(submission, "env"),
        "MASTER_ADDR": f"{submission.name}-0.{submission.name}",
        "MASTER_PORT": str(submission.port),
        "PYTHONUNBUFFERED": "1",
    }


def _quantities(submission: Submission) -> Manifest:
    """Limits equal requests, except for CPU, which is not throttled."""
    resources = submission.resources
    limits = _extra(submission, "extra_resources")
    limits |= {"memory": _mebibytes(resources.memory_gib), "ephemeral-storage": _mebibytes(resources.disk_gib)}
    if resources.accelerator is not None:
        limits[resources.accelerator] = str(resources.accelerators_per_host)
    return {"requests": {"cpu": f"{round(resources.cpu * 1000)}m", **limits}, "limits": limits}


def _volume(claim: str) -> str:
    return f"claim-{re.sub('[^a-z0-9-]', '-', claim)}"[:63].rstrip("-")


def _mebibytes(gibibytes: float) -> str:
    return f"{round(gibibytes * 1024)}Mi"
