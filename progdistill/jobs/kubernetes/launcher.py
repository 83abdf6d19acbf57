"""The Kubernetes launcher: submits a job or attaches to it, shows what its pods say, and clears up."""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from progdistill.config.cluster import ClusterSettings, OnInterrupt
from progdistill.errors import Interrupted, ProgdistillError, TransientError, UsageError
from progdistill.jobs.events import Listener, ignore
from progdistill.jobs.kubernetes import diagnostics as words
from progdistill.jobs.kubernetes.api import ClusterApi, ConflictError, Object, WatchCache, connect
from progdistill.jobs.kubernetes.log import JobLog, PodLog
from progdistill.jobs.kubernetes.losses import LOSSES_IN_A_ROW, Losses, is_unexplained, progress_of
from progdistill.jobs.kubernetes.manifest import (
    JOB_LABEL,
    STORE_ANNOTATION,
    Submission,
    job_manifest,
    jobset_manifest,
    service_manifest,
    submission_for,
)
from progdistill.jobs.spec import JobRequest, JobResult, request_key, result_key
from progdistill.models_base import Frozen
from progdistill.signals import StopSignals
from progdistill.store.base import Store
from progdistill.store.documents import encode, read_record

TICK_SECONDS: Final = 1.0
GONE_SECONDS: Final = 5.0
"""How long a Job may be missing before it counts as deleted: another driver may be replacing it."""

LOGS_SECONDS: Final = 15.0
"""How long the end of a job waits for the last lines of its pods."""

DELETION_SECONDS: Final = 300.0
_LEFT: Final = ".left.json"


class KubernetesLauncher:
    """Runs jobs in pods that reach the store; logs are kept in `folder`, events go to `on_event`."""

    def __init__(
        self, store: Store, settings: ClusterSettings, folder: Path, on_event: Listener = ignore
    ) -> None:
        self._store, self._settings, self._folder, self._on_event = store, settings, folder, on_event

    def launch(self, request: JobRequest) -> None:
        """See Launcher.launch. If the job is running already, attach to it. Ctrl-C leaves or deletes it."""
        submission = submission_for(request, self._settings, self._store)
        api = connect(self._settings)
        try:
            with StopSignals(once=True) as signals:
                try:
                    log = JobLog(self._folder / f"{submission.name}.log", self._on_event)
                    _Run(api, submission, self._store, log, signals.check).to_its_end()
                except KeyboardInterrupt:
                    raise self._interrupted(api, submission) from None
        except TransientError as error:
            raise TransientError(f"{error}. {_goes_on(api, submission)}") from error
        finally:
            api.closed.set()

    def _interrupted(self, api: ClusterApi, submission: Submission) -> Interrupted:
        choice, label = self._settings.on_interrupt, submission.request.spec.label
        if choice is OnInterrupt.ASK:
            # A step under Metaflow has no terminal; whoever started it may have one, and asks there.
            choice = _asked(submission.name) if sys.stdin.isatty() else OnInterrupt.LEAVE
        path = _path(api, submission, submission.name)
        if choice is OnInterrupt.DELETE:
            _delete_now(api, path)
            return Interrupted(f"{label}: Job {submission.name} is deleted")
        if self._settings.on_interrupt is OnInterrupt.ASK:
            left = LeftRunning(name=submission.name, path=path, cluster=self._settings)
            (self._folder / f"{submission.name}{_LEFT}").write_text(left.model_dump_json())
        return Interrupted(f"{label}: {_goes_on(api, submission)}")


class LeftRunning(Frozen):
    """A Job that an interrupted driver without a terminal left running."""

    name: str
    path: str
    cluster: ClusterSettings


def ask_about_left(folder: Path) -> None:
    """Where there is a terminal, ask what shall become of the Jobs that drivers left running."""
    for note in sorted(folder.glob(f"*{_LEFT}")):
        left = LeftRunning.model_validate_json(note.read_text())
        note.unlink()
        if sys.stdin.isatty() and _asked(left.name) is OnInterrupt.DELETE:
            _delete_now(connect(left.cluster), left.path)
            print(f"Job {left.name} is deleted", file=sys.stderr)


def _delete_now(api: ClusterApi, path: str) -> None:
    job = api.get(path)
    if job is not None:
        api.delete(path, uid=job["metadata"]["uid"])


class _Run:
    """One job, from the submission to its end."""

    def __init__(
        self,
        api: ClusterApi,
        submission: Submission,
        store: Store,
        log: JobLog,
        check_interrupted: Callable[[], None],
    ) -> None:
        """`check_interrupted` is called wherever the driver waits, and raises what ends it."""
        self._api, self._submission, self._store, self._log = api, submission, store, log
        self._check_interrupted = check_interrupted
        self._changed = threading.Event()
        self._logs: dict[str, PodLog] = {}
        self._said: set[str] = set()
        self._losses = Losses(lambda: progress_of(submission.request.spec, store))
        self._unpullable_since: float | None = None
        self._missing_since: float | None = None

    def to_its_end(self) -> None:
        """Return when the job's result is in the store; raise what kept it out."""
        request = self._submission.request
        self._store.write(request_key(request.spec.id), encode(request))
        self._submit()
        selector = f"{JOB_LABEL}={self._submission.name}"
        jobs = WatchCache(self._api, _path(self._api, self._submission), selector, self._changed)
        pods = WatchCache(self._api, self._api.path("v1", "pods"), selector, self._changed)
        while not self._is_over(jobs, pods):
            self._check_interrupted()
            self._changed.wait(TICK_SECONDS)
            self._changed.clear()
        self._store.delete(request_key(request.spec.id))

    def _submit(self) -> None:
        """Create the Job, or find the one that another driver created; a finished one is replaced."""
        name = self._submission.name
        path, one = _path(self._api, self._submission), _path(self._api, self._submission, name)
        while True:
            found = self._api.get(one)
            if found is None:
                # Before the pods, so that none is told that the others' names do not exist.
                self._ensure_service(None)
                try:
                    job = self._api.create(path, self._manifest())
                except ConflictError:
                    continue  # another driver was faster, or the answer to our first attempt was lost
                self._log.write(f"{name}: submitted to namespace {self._api.namespace}")
                break
            self._require_same_store(found)
            if self._has_result():
                return
            if not _is_finished(found) and "deletionTimestamp" not in found["metadata"]:
                self._log.write(f"{name}: is there already; attached to it")
                job = found
                break
            self._log.write(f"{name}: an earlier attempt left no result; starting again")
            self._delete(one, found)
        self._ensure_service(job["metadata"]["uid"])

    def _manifest(self) -> Object:
        jobset = self._submission.cluster.use_jobset
        return jobset_manifest(self._submission) if jobset else job_manifest(self._submission)

    def _ensure_service(self, job_uid: str | None) -> None:
        """The Service that gives several pods names; it belongs to the Job as soon as there is one."""
        if self._submission.hosts == 1 or self._submission.cluster.use_jobset:
            return
        one = self._api.path("v1", "services", self._submission.name)
        wanted = service_manifest(self._submission, job_uid)
        while True:
            found = self._api.get(one)
            if found is None:
                with suppress(ConflictError):
                    self._api.create(self._api.path("v1", "services"), wanted)
                    return
                continue
            owners = [owner["uid"] for owner in found["metadata"].get("ownerReferences", [])]
            if owners == ([job_uid] if job_uid else []):
                return
            if not owners:
                self._api.patch(one, {"metadata": {"ownerReferences": wanted["metadata"]["ownerReferences"]}})
                return
            job = self._api.get(_path(self._api, self._submission, self._submission.name))
            if job is not None and job["metadata"]["uid"] in owners:
                return  # of a Job that another driver has just created
            self._delete(one, found)  # of an earlier Job, and about to go with it

    def _delete(self, path: str, found: Object) -> None:
        """Delete an object and wait until it and its pods are gone, so that no two are there at once."""
        uid, deadline = found["metadata"]["uid"], time.monotonic() + DELETION_SECONDS
        self._api.delete(path, uid=uid)
        while (left := self._api.get(path)) is not None and left["metadata"]["uid"] == uid:
            self._check_interrupted()
            if time.monotonic() > deadline:
                raise TransientError(
                    f"{path} was asked to go {DELETION_SECONDS:.0f} s ago and is still there"
                )
            self._api.closed.wait(TICK_SECONDS / 2)

    def _is_over(self, jobs: WatchCache, pods: WatchCache) -> bool:
        for error in (jobs.error, pods.error, *(log.error for log in self._logs.values())):
            if error is not None:
                raise error
        if not (jobs.listed.is_set() and pods.listed.is_set()):
            return False
        self._follow_logs(pods)
        job = next(iter(jobs.present()), None)
        if job is None:
            return self._is_gone()
        self._missing_since = None
        if words.condition_of(job, "Complete", "Completed") is not None:
            self._finish(pods)
            self._cleanup(job)
            return True
        if words.condition_of(job, "Failed") is not None:
            self._finish(pods)
            if self._has_result():
                return True
            raise self._failure(job, pods)
        self._log_status(job, pods)
        return False

    def _is_gone(self) -> bool:
        """Whether the missing job is done: a second driver of the same job clears up, too."""
        if self._has_result():
            return True
        now = time.monotonic()
        self._missing_since = self._missing_since or now
        if now - self._missing_since < GONE_SECONDS:
            return False
        name = self._submission.name
        raise ProgdistillError(
            f"{self._submission.request.spec.label}: Job {name} was deleted by someone else before it had a"
            " result; its last snapshot is kept: run the same command again to go on from there"
        )

    def _finish(self, pods: WatchCache) -> None:
        self._follow_logs(pods)
        deadline = time.monotonic() + LOGS_SECONDS
        for log in self._logs.values():
            log.finish(max(0.0, deadline - time.monotonic()))

    def _cleanup(self, job: Object) -> None:
        """A job that is done leaves nothing behind; whoever comes second finds nothing to delete."""
        one = _path(self._api, self._submission, self._submission.name)
        self._api.delete(one, uid=job["metadata"]["uid"])

    def _failure(self, job: Object, pods: WatchCache) -> ProgdistillError:
        name, hours = self._submission.name, self._submission.cluster.ttl_hours
        where = (
            f"Its log is {self._log.path}; the Job is kept for {hours:g} h"
            f" (kubectl -n {self._api.namespace} describe job {name})."
        )
        return words.failure(self._submission, job, _ends(pods), self._last_lines(pods), where)

    def _last_lines(self, pods: WatchCache) -> dict[str, list[str]]:
        by_name = {words.name_of(pod): self._logs.get(pod["metadata"]["uid"]) for pod in pods.ever_seen()}
        return {name: list(log.last) for name, log in by_name.items() if log is not None}

    def _follow_logs(self, pods: WatchCache) -> None:
        single = self._submission.processes == 1
        for pod in pods.ever_seen():
            uid, index = pod["metadata"]["uid"], words.index_of(pod)
            if uid not in self._logs and words.has_begun(pod):
                prefix = f"[rank {index}] " if single and index else ""

                def has_ended(uid: str = uid) -> bool:
                    latest = pods.find(uid)
                    return latest is None or words.ended(latest) is not None

                self._logs[uid] = PodLog(self._api, words.name_of(pod), prefix, self._log, has_ended)

    def _log_status(self, job: Object, pods: WatchCache) -> None:
        for line in words.waiting(self._submission, job, pods.present()):
            self._say(line)
        if not pods.ever_seen():
            self._say_why_no_pods(job)
        for pod in pods.ever_seen():
            end = words.ended(pod)
            if end is not None and (said := words.restart(end)) is not None:
                self._say(said, about=words.name_of(pod))
        self._give_up_on_image(job, pods)
        self._give_up_on_losses(job, pods)

    def _say_why_no_pods(self, job: Object) -> None:
        if job.get("spec", {}).get("suspend"):
            return
        fields = f"involvedObject.uid={job['metadata']['uid']},type=Warning"
        events = self._api.get(self._api.path("v1", "events"), fieldSelector=fields) or {}
        for event in events.get("items", []):
            self._say(f"{self._submission.name} has no pods ({event['reason']}): {event['message']}")

    def _give_up_on_image(self, job: Object, pods: WatchCache) -> None:
        problem = words.unpullable_image(pods.present())
        if problem is None:
            self._unpullable_since = None
            return
        now, patience = time.monotonic(), self._submission.cluster.image_pull_patience_seconds
        self._unpullable_since = self._unpullable_since or now
        if now - self._unpullable_since > patience:
            self._cleanup(job)
            raise UsageError(
                f"{problem} (for {patience:.0f} s; the Job is deleted): mend cluster.image, or name the"
                " registry's Secret in cluster.image_pull_secrets"
            )

    def _give_up_on_losses(self, job: Object, pods: WatchCache) -> None:
        ends = _ends(pods)
        if self._losses.in_a_row(ends) < LOSSES_IN_A_ROW:
            return
        self._finish(pods)
        self._cleanup(job)
        last = max(filter(is_unexplained, ends), key=lambda end: (end.finished_at, -end.host))
        lines, where = self._last_lines(pods).get(last.pod, []), f"Its log is {self._log.path}."
        raise words.lost(self._submission, LOSSES_IN_A_ROW, last, lines, where)

    def _say(self, line: str, about: str = "") -> None:
        if about + line not in self._said:
            self._said.add(about + line)
            self._log.write(line)

    def _has_result(self) -> bool:
        return read_record(self._store, result_key(self._submission.request.spec.id), JobResult) is not None

    def _require_same_store(self, job: Object) -> None:
        theirs = job["metadata"].get("annotations", {}).get(STORE_ANNOTATION)
        if theirs != self._submission.store_uri:
            raise UsageError(
                f"Job {self._submission.name} in namespace {self._api.namespace} does the same work for"
                f" another store, {theirs}: use that store, wait for its end, or choose another"
                " cluster.namespace"
            )


def _ends(pods: WatchCache) -> list[words.Ended]:
    return [end for pod in pods.ever_seen() if (end := words.ended(pod)) is not None]


def _is_finished(job: Object) -> bool:
    return words.condition_of(job, "Complete", "Completed", "Failed") is not None


def _path(api: ClusterApi, submission: Submission, *name: str) -> str:
    if submission.cluster.use_jobset:
        return api.path("jobset.x-k8s.io/v1alpha2", "jobsets", *name)
    return api.path("batch/v1", "jobs", *name)


def _goes_on(api: ClusterApi, submission: Submission) -> str:
    kind = "jobset" if submission.cluster.use_jobset else "job"
    return (
        f"Job {submission.name} goes on in namespace {api.namespace}, and the next run attaches to it;"
        f" to end it: kubectl -n {api.namespace} delete {kind} {submission.name}"
    )


def _asked(name: str) -> OnInterrupt:
    question = f"\nLeave {name} running in the cluster, or delete it? [leave/delete] "
    try:
        with StopSignals():
            answer = input(question).strip().lower()
    except (EOFError, KeyboardInterrupt):
        answer = ""
    return OnInterrupt.DELETE if answer.startswith("d") else OnInterrupt.LEAVE
