"""A small JobSet controller (jobset.sigs.k8s.io, v1alpha2): makes the jobs and sums up how they end.

Done: the jobs of replicatedJobs, the headless service that names their pods, suspend, failurePolicy with its
rules and restarts, the Completed and Failed conditions, ttlSecondsAfterFinished. Success means that all jobs
complete. Everything else in a spec is refused when the object is created.
"""

import contextlib
import copy
import datetime
import uuid

from tests.kubernetes_api import clock, defaults, ownership
from tests.kubernetes_api.conditions import condition, has_condition, set_condition
from tests.kubernetes_api.errors import ApiError
from tests.kubernetes_api.job_set_failures import REPLICATED_JOB, judge
from tests.kubernetes_api.recorder import record
from tests.kubernetes_api.resources import JOB_SETS, JOBS, SERVICES
from tests.kubernetes_api.storage import Object, Storage

_COMPONENT = "jobset-controller"
_PREFIX = "jobset.sigs.k8s.io"


def sync(storage: Storage) -> list[datetime.datetime]:
    """One pass over all JobSets; the times at which to look again without a change."""
    wake: list[datetime.datetime] = []
    for job_set in storage.list(JOB_SETS):
        if "deletionTimestamp" in job_set["metadata"]:
            continue
        if has_condition(job_set, "Completed") or has_condition(job_set, "Failed"):
            wake += _expire(storage, job_set)
            continue
        _make_service(storage, job_set)
        _manage(storage, job_set)
    return wake


def _make_service(storage: Storage, job_set: Object) -> None:
    network = job_set["spec"].get("network") or {}
    name, namespace = _subdomain(job_set), job_set["metadata"]["namespace"]
    if network.get("enableDNSHostnames", True) is False or storage.find(SERVICES, namespace, name):
        return
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "ownerReferences": [ownership.reference(job_set)],
        },
        "spec": {
            "clusterIP": "None",
            "selector": {f"{_PREFIX}/jobset-name": job_set["metadata"]["name"]},
            "publishNotReadyAddresses": network.get("publishNotReadyAddresses", True),
        },
    }
    defaults.fill(SERVICES, service)
    storage.create(SERVICES, service)


def _subdomain(job_set: Object) -> str:
    network = job_set["spec"].get("network") or {}
    return str(network.get("subdomain") or job_set["metadata"]["name"])


def _jobs(storage: Storage, job_set: Object) -> list[Object]:
    return [job for job in storage.list(JOBS) if ownership.controller_of(job) == job_set["metadata"]["uid"]]


def _manage(storage: Storage, job_set: Object) -> None:
    restarts = job_set.get("status", {}).get("restarts", 0)
    jobs = _jobs(storage, job_set)
    current = [j for j in jobs if int(j["metadata"]["labels"][f"{_PREFIX}/restart-attempt"]) == restarts]
    for job in jobs:
        if job not in current and "deletionTimestamp" not in job["metadata"]:
            metadata = job["metadata"]
            storage.delete(JOBS, metadata["namespace"], metadata["name"], policy="Foreground")
    names = {job["metadata"]["name"] for job in _jobs(storage, job_set)}
    wanted = _wanted(job_set, restarts)
    for job in wanted:
        if job["metadata"]["name"] not in names:
            _make_job(storage, job)
    suspend = bool(job_set["spec"].get("suspend"))
    for job in current:
        if bool(job["spec"].get("suspend")) != suspend:
            storage.update(
                JOBS,
                job["metadata"]["namespace"],
                job["metadata"]["name"],
                lambda j: j["spec"].update(suspend=suspend),
            )
    failed = [job for job in current if has_condition(job, "Failed")]
    if failed:
        _fail(storage, job_set, failed)
    elif len(current) == len(wanted) and all(has_condition(job, "Complete") for job in current):
        _end(storage, job_set, "Completed", "AllJobsCompleted", "jobset completed successfully")
    else:
        _report(storage, job_set, current, suspend)


def _make_job(storage: Storage, job: Object) -> None:
    job = copy.deepcopy(job)
    defaults.fill(JOBS, job)
    storage.create(JOBS, job)


def _wanted(job_set: Object, restarts: int) -> list[Object]:
    jobs = []
    name, namespace = job_set["metadata"]["name"], job_set["metadata"]["namespace"]
    for replicated in job_set["spec"]["replicatedJobs"]:
        for index in range(replicated.get("replicas", 1)):
            template = copy.deepcopy(replicated["template"])
            marks = {
                f"{_PREFIX}/jobset-name": name,
                REPLICATED_JOB: replicated["name"],
                f"{_PREFIX}/replicatedjob-replicas": str(replicated.get("replicas", 1)),
                f"{_PREFIX}/job-index": str(index),
                f"{_PREFIX}/restart-attempt": str(restarts),
                f"{_PREFIX}/jobset-uid": job_set["metadata"]["uid"],
            }
            own = template.get("metadata") or {}
            spec = template["spec"]
            pod = spec["template"]
            pod_metadata = pod.get("metadata") or {}
            pod["metadata"] = pod_metadata
            for target in (own, pod_metadata):
                target["labels"] = {**(target.get("labels") or {}), **marks}
                target["annotations"] = {**(target.get("annotations") or {}), **marks}
            pod["spec"].setdefault("subdomain", _subdomain(job_set))
            spec["suspend"] = bool(job_set["spec"].get("suspend"))
            own |= {
                "name": f"{name}-{replicated['name']}-{index}",
                "namespace": namespace,
                "uid": str(uuid.uuid4()),
                "ownerReferences": [ownership.reference(job_set)],
            }
            jobs.append({"apiVersion": "batch/v1", "kind": "Job", "metadata": own, "spec": spec})
    return jobs


def _fail(storage: Storage, job_set: Object, failed: list[Object]) -> None:
    verdict = judge(job_set, failed)
    if verdict.fails:
        _end(storage, job_set, "Failed", verdict.reason, verdict.message)
        return

    def change(target: Object) -> None:
        status = target["status"]
        status["restarts"] = status.get("restarts", 0) + 1
        status["restartsCountTowardsMax"] = status.get("restartsCountTowardsMax", 0) + verdict.counts

    restarted = _change(storage, job_set, change)
    record(storage, restarted, "Warning", verdict.reason, verdict.message, _COMPONENT)


def _end(storage: Storage, job_set: Object, kind: str, reason: str, message: str) -> None:
    def change(target: Object) -> None:
        target["status"]["terminalState"] = kind
        set_condition(target, kind, "True", reason, message)

    done = _change(storage, job_set, change)
    record(storage, done, "Normal" if kind == "Completed" else "Warning", reason, message, _COMPONENT)
    for job in _jobs(storage, job_set):
        if not has_condition(job, "Complete") and not has_condition(job, "Failed"):
            storage.delete(JOBS, job["metadata"]["namespace"], job["metadata"]["name"], policy="Foreground")


def _report(storage: Storage, job_set: Object, jobs: list[Object], suspend: bool) -> None:
    def change(target: Object) -> None:
        status = target["status"]
        status.setdefault("restarts", 0)
        if suspend:
            set_condition(target, "Suspended", "True", "SuspendedJobs", "jobset is suspended")
        elif has_condition(target, "Suspended"):
            set_condition(target, "Suspended", "False", "ResumeJobs", "jobset is resumed")
        status["replicatedJobsStatus"] = [
            {
                "name": replicated["name"],
                **{
                    key: len([j for j in jobs if _belongs(j, replicated["name"]) and test(j)])
                    for key, test in _COUNTS.items()
                },
            }
            for replicated in target["spec"]["replicatedJobs"]
        ]

    _change(storage, job_set, change)


_COUNTS = {
    "ready": lambda j: (
        j["status"].get("ready", 0) + j["status"].get("succeeded", 0) >= j["spec"]["parallelism"]
    ),
    "succeeded": lambda j: has_condition(j, "Complete"),
    "failed": lambda j: has_condition(j, "Failed"),
    "active": lambda j: j["status"].get("active", 0) > 0,
    "suspended": lambda j: bool(j["spec"].get("suspend")),
}


def _belongs(job: Object, replicated: str) -> bool:
    return bool(job["metadata"]["labels"][REPLICATED_JOB] == replicated)


def _change(storage: Storage, job_set: Object, change: object) -> Object:
    def with_status(target: Object) -> None:
        target.setdefault("status", {})
        change(target)  # type: ignore[operator]

    metadata = job_set["metadata"]
    return storage.update(JOB_SETS, metadata["namespace"], metadata["name"], with_status)


def _expire(storage: Storage, job_set: Object) -> list[datetime.datetime]:
    ttl = job_set["spec"].get("ttlSecondsAfterFinished")
    if ttl is None:
        return []
    ended = condition(job_set, "Completed") or condition(job_set, "Failed")
    when = clock.parse(ended["lastTransitionTime"]) + datetime.timedelta(seconds=ttl)
    if when > clock.now():
        return [when]
    with contextlib.suppress(ApiError):
        metadata = job_set["metadata"]
        storage.delete(JOB_SETS, metadata["namespace"], metadata["name"], policy="Foreground")
    return []
