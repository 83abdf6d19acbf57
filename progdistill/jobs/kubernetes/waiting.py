"""Says why a job waits: the state of its pods, warning events, Kueue, and nodes that do not answer."""

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from progdistill.jobs.kubernetes import diagnostics
from progdistill.jobs.kubernetes.api import ClusterApi, ForbiddenError, Object
from progdistill.jobs.kubernetes.manifest import Submission
from progdistill.jobs.local import JobLog

EVENTS_SECONDS: Final = 5.0
STUCK_SECONDS: Final = 60.0  # beyond the grace period
_VARIES: Final = re.compile(r'"[^"]*"|[0-9a-f]{8,}|\d+')  # names of pods and sandboxes, counts


class WaitingLog:
    """Writes to the job's log what the job waits for, each cause once."""

    def __init__(self, api: ClusterApi, submission: Submission, log: JobLog) -> None:
        self._api, self._submission, self._log = api, submission, log
        self._said = set[tuple[str, str, str]]()
        self._terminating: dict[str, float] = {}
        self._next_events = 0.0

    def update(self, job: Object, pods: Sequence[Object]) -> None:
        """Write what is new.

        Args:
            job: The Job as it is now.
            pods: Its pods that exist.
        """
        for line in diagnostics.waiting_reasons(self._submission, job, pods):
            self._log.write_once(line)
        self._write_stuck(pods)
        active = [pod for pod in pods if diagnostics.pod_exit(pod) is None]
        troubled = [pod for pod in active if diagnostics.is_troubled(pod)]
        suspended = bool(job.get("spec", {}).get("suspend"))
        now = time.monotonic()
        if now < self._next_events or not (suspended or troubled or len(active) < self._submission.hosts):
            return
        self._next_events = now + EVENTS_SECONDS
        # Those of which the state says why they wait need no events.
        self._write_events([job, *(pod for pod in troubled if diagnostics.waiting_reason(pod) is None)])
        if suspended:
            self._write_admission(job)

    def _write_events(self, items: Sequence[Object]) -> None:
        about = {item["metadata"]["uid"]: item for item in items}
        events = self._api.get(self._api.path("v1", "events"), fieldSelector="type=Warning") or {}
        for event in events.get("items", []):
            uid, reason, message = event["involvedObject"].get("uid"), event.get("reason", ""), event.get("message", "")
            key = (uid, reason, _VARIES.sub("", message))
            if uid not in about or key in self._said:
                continue
            self._said.add(key)
            count = event.get("count") or (event.get("series") or {}).get("count") or 1
            times = f" ({count} times so far)" if count > 1 else ""
            self._log.write(f"{self._subject(about[uid])}: {reason}: {message.strip()}{times}")

    def _subject(self, item: Object) -> str:
        return self._submission.name if item["spec"].get("template") else diagnostics.host_on_node(item)

    def _write_admission(self, job: Object) -> None:
        """What Kueue says of the Job's Workload; drivers without the permission to read it go without."""
        selector = f"kueue.x-k8s.io/job-uid={job['metadata']['uid']}"
        with suppress(ForbiddenError):
            found = self._api.get(self._api.path("kueue.x-k8s.io/v1beta2", "workloads"), labelSelector=selector) or {}
            for workload in found.get("items", []):
                reserved = diagnostics.condition(workload, "QuotaReserved", status="False") or {}
                if message := reserved.get("message"):
                    self._log.write_once(f"{self._submission.name} is queued: {message}")

    def _write_stuck(self, pods: Sequence[Object]) -> None:
        """A pod that does not end is on a node that does not answer: nothing replaces it while the node exists."""
        now, grace = time.monotonic(), self._submission.cluster.grace_seconds
        for pod in pods:
            if "deletionTimestamp" not in pod["metadata"] or diagnostics.pod_exit(pod) is not None:
                continue
            since = self._terminating.setdefault(pod["metadata"]["uid"], now)
            if now - since > grace + STUCK_SECONDS:
                node = pod["spec"].get("nodeName", "")
                self._log.write_once(
                    f"{diagnostics.host_on_node(pod)} should have stopped, but the node does not answer; its pod is"
                    f" replaced when the node is gone: if it is really off, kubectl delete node {node}"
                )
