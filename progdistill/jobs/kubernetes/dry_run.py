"""What the cluster would refuse, found before a run: names that do not exist, and a dry run of the very objects."""

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from kubernetes.utils.quantity import parse_quantity

from progdistill.config.cluster import ClusterSettings
from progdistill.errors import ProgdistillError, TransientError, UsageError
from progdistill.jobs.kubernetes.api import ClusterApi, ConflictError, ForbiddenError, Object, Permission
from progdistill.jobs.kubernetes.manifest import Submission, job_manifest, service_manifest
from progdistill.jobs.spec import JobRequest

_CREATE_PODS: Final = Permission("", "pods", "create")
_KINDS: Final = {"train": "train_base", "distill": "distill", "evaluate": "evaluate"}
_QUOTA: Final = re.compile(r"exceeded quota: \S+ requested: (\S+), used: (\S+), limited: (\S+)")


class Named(NamedTuple):
    """An object that settings name: a missing one is found by a pod only when it waits."""

    group: str
    resource: str
    name: str
    setting: str

    def path(self, api: ClusterApi) -> str:
        """The path of the object."""
        if self.resource == "priorityclasses":
            return f"/apis/{self.group}/{self.resource}/{self.name}"
        return api.path(self.group, self.resource, self.name)


class Findings(NamedTuple):
    """What stands against a run, and what this user may not look at."""

    refusals: tuple[str, ...]
    unchecked: tuple[str, ...]


def findings(api: ClusterApi, cluster: ClusterSettings, store_uri: str) -> Findings:
    """Look up what the settings name, and send the Job, Service and pod of each kind of job as a dry run.

    The permissions for that are optional: what this user may not do is left unchecked.

    Raises:
        UsageError: The namespace does not exist.
        TransientError: The API server does not answer.
    """
    refusals, unchecked = dict[str, None](), dict[str, None]()
    submissions = [_submission(cluster, kind, store_uri) for kind in _KINDS.values()]
    for submission in submissions:  # before the names: without the namespace all of them are missing
        for path, manifest in _objects(api, submission):
            if (refusal := refusal_of(api, path, manifest)) is not None:
                refusals[f"{submission.setting}: {refusal}"] = None
    if not api.can_i(_CREATE_PODS):
        unchecked[f"pods in a dry run ({_CREATE_PODS})"] = None
    for named in dict.fromkeys(one for submission in submissions for one in _named(submission)):
        try:
            if api.get(named.path(api)) is None:
                refusals[_missing(named, api.namespace)] = None
        except ForbiddenError:
            unchecked[f"{named.resource} (get {named.resource})"] = None
    return Findings(tuple(refusals), tuple(unchecked))


def refusal_of(api: ClusterApi, path: str, manifest: Object) -> str | None:
    """Why the cluster would refuse to create an object; None if it would not, or not for long.

    A quota that others use up now makes a job wait; one that is smaller than the job refuses it.
    """
    try:
        api.create(path, manifest, dry_run=True)
    except (ConflictError, ForbiddenError):
        return None
    except TransientError:
        raise
    except ProgdistillError as error:
        found = _QUOTA.search(str(error))
        if (found and not _never_fits(found[1], found[3])) or "does not support dry run" in str(error):
            return None
        if isinstance(error, UsageError) and "create the namespace" in str(error):
            raise
        return str(error)
    return None


def _never_fits(requested: str, limited: str) -> bool:
    limits = dict(part.split("=") for part in limited.split(","))
    amounts = (part.split("=") for part in requested.split(","))
    return any(parse_quantity(amount) > parse_quantity(limits[name]) for name, amount in amounts if name in limits)


def _submission(cluster: ClusterSettings, kind: str, store_uri: str) -> Submission:
    """What a job of that kind will submit, but for its id and its name."""
    world_size = cluster.for_kind(kind)[1].world_size
    spec = SimpleNamespace(kind=kind, id="0" * 64, label="dry run", world_size=world_size)
    facts: dict[str, Any] = {"spec": spec, "created_by": "dry-run"}
    return Submission(JobRequest.model_construct(**facts), cluster, store_uri)


def _objects(api: ClusterApi, submission: Submission) -> Iterator[tuple[str, Object]]:
    job = job_manifest(submission)
    yield api.path("batch/v1", "jobs"), job
    if submission.hosts > 1:
        yield api.path("v1", "services"), service_manifest(submission, None)
    pod: Object = {"apiVersion": "v1", "kind": "Pod", **job["spec"]["template"]}
    yield api.path("v1", "pods"), {**pod, "metadata": {**pod["metadata"], "name": f"{submission.name}-0"}}


def _named(submission: Submission) -> Iterator[Named]:
    cluster, resources, setting = submission.cluster, submission.resources, submission.setting
    for name in cluster.env_from_secrets:
        yield Named("v1", "secrets", name, "cluster.env_from_secrets")
    for name in cluster.image_pull_secrets:
        yield Named("v1", "secrets", name, "cluster.image_pull_secrets")
    for name in cluster.volumes:
        yield Named("v1", "persistentvolumeclaims", name, "cluster.volumes")
    account = resources.service_account or cluster.service_account
    if account is not None:
        of = setting if resources.service_account else "cluster"
        yield Named("v1", "serviceaccounts", account, f"{of}.service_account")
    if resources.priority_class is not None:
        yield Named("scheduling.k8s.io/v1", "priorityclasses", resources.priority_class, f"{setting}.priority_class")
    if resources.queue is not None:
        yield Named("kueue.x-k8s.io/v1beta2", "localqueues", resources.queue, f"{setting}.queue")


_ADVICE: Final = {
    "secrets": "kubectl -n {0} create secret generic {1} …",
    "persistentvolumeclaims": "create the claim",
    "serviceaccounts": "kubectl -n {0} create serviceaccount {1}",
    "priorityclasses": "kubectl create priorityclass {1} --value=…",
    "localqueues": "create the LocalQueue, and install Kueue if the cluster lacks it",
}


def _missing(named: Named, namespace: str) -> str:
    advice = _ADVICE[named.resource].format(namespace, named.name)
    place = "the cluster" if named.resource == "priorityclasses" else f"namespace {namespace}"
    return f"{named.setting}: {named.name} is not among the {named.resource} of {place}: {advice}, or change it"
