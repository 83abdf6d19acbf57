"""The Kubernetes launcher: runs a job in pods, and decides what becomes of it when its driver stops."""

import logging
import sys
from pathlib import Path
from typing import Final

from progdistill.config.cluster import ClusterSettings, OnInterrupt
from progdistill.errors import Interrupted, TransientError
from progdistill.jobs.events import Listener, ignore
from progdistill.jobs.kubernetes.api import ClusterApi, connect
from progdistill.jobs.kubernetes.manifest import Submission, submission_for
from progdistill.jobs.kubernetes.monitor import JobMonitor
from progdistill.jobs.kubernetes.submit import Submitter, job_path
from progdistill.jobs.local import JobLog
from progdistill.jobs.spec import JobRequest
from progdistill.models_base import Frozen
from progdistill.signals import StopSignals
from progdistill.store.base import Store
from progdistill.store.documents import encode
from progdistill.store.layout import job_request_key

logger = logging.getLogger(__name__)

_NOTES: Final = "{}.left.json"


class KubernetesLauncher:
    """Runs jobs in pods, which must be able to reach the store. Logs are files in `folder`, one per job."""

    def __init__(self, store: Store, settings: ClusterSettings, folder: Path, on_event: Listener = ignore) -> None:
        self._store, self._settings, self._folder, self._on_event = store, settings, folder, on_event

    def launch(self, request: JobRequest) -> None:
        """Run a job to its end, see Launcher.launch. If its Job is running already, attach to it.

        SIGINT and SIGTERM end the driver; `cluster.on_interrupt` decides whether the Job is deleted. TransientError is
        raised where the API server was unreachable for `cluster.api_timeout_seconds`.
        """
        submission = submission_for(request, self._settings, self._store)
        api = connect(self._settings)
        try:
            with StopSignals(once=True) as signals:
                try:
                    self._run(api, submission, signals)
                except KeyboardInterrupt:
                    raise self._interrupted(api, submission) from None
        except TransientError as error:
            raise TransientError(f"{error}. {_still_running(api, submission)}") from error
        finally:
            api.closed.set()

    def _run(self, api: ClusterApi, submission: Submission, signals: StopSignals) -> None:
        log = JobLog(self._folder / f"{submission.name}.log", self._on_event)
        key = job_request_key(submission.request.spec.id)
        self._store.write(key, encode(submission.request))
        Submitter(api, submission, log, signals.check).submit(self._store)
        JobMonitor(api, submission, self._store, log).wait(signals.check)
        self._store.delete(key)

    def _interrupted(self, api: ClusterApi, submission: Submission) -> Interrupted:
        choice, label, name = self._settings.on_interrupt, submission.request.spec.label, submission.name
        if choice is OnInterrupt.ASK:
            # A Metaflow step has no terminal; the process that started the run may have one, and asks there.
            choice = _ask(name) if sys.stdin.isatty() else OnInterrupt.LEAVE
        if choice is OnInterrupt.DELETE:
            _delete_job(api, name)
            return Interrupted(f"{label}: Job {name} is deleted")
        if self._settings.on_interrupt is OnInterrupt.ASK:
            note = LeftRunning(name=name, cluster=self._settings)
            (self._folder / _NOTES.format(name)).write_text(note.model_dump_json())
        return Interrupted(f"{label}: {_still_running(api, submission)}")


class LeftRunning(Frozen):
    """A note that an interrupted driver without a terminal left a Job running."""

    name: str
    cluster: ClusterSettings


def ask_about_left(folder: Path) -> None:
    """Ask at the terminal whether to delete the Jobs that drivers left running; no question without one.

    Args:
        folder: the launcher's folder, with a note for each such Job.
    """
    for file in sorted(folder.glob(_NOTES.format("*"))):
        note = LeftRunning.model_validate_json(file.read_text())
        file.unlink()
        if sys.stdin.isatty() and _ask(note.name) is OnInterrupt.DELETE:
            _delete_job(connect(note.cluster), note.name)
            logger.info("Job %s is deleted", note.name)


def _ask(name: str) -> OnInterrupt:
    question = f"\nLeave {name} running in the cluster, or delete it? [leave/delete] "
    try:
        with StopSignals():
            answer = input(question).strip().lower()
    except (EOFError, KeyboardInterrupt):
        answer = ""
    return OnInterrupt.DELETE if answer.startswith("d") else OnInterrupt.LEAVE


def _delete_job(api: ClusterApi, name: str) -> None:
    path = job_path(api, name)
    if (job := api.get(path)) is not None:
        api.delete(path, job["metadata"]["uid"])


def _still_running(api: ClusterApi, submission: Submission) -> str:
    return (
        f"Job {submission.name} keeps running in namespace {api.namespace}, and the next run attaches to it."
        f" To delete it: kubectl -n {api.namespace} delete job {submission.name}"
    )
