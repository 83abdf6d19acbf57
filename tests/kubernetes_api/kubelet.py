"""Runs the pods that are bound to nodes, and reports their state: the kubelet of every node.

Left out: images and security contexts (all containers run as the test does, in its file system), probes and
restarts. Each pod works in an empty folder of its own, and is Ready as soon as its process runs.
"""

import contextlib
import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.kubernetes_api.container import Container, PodLog
from tests.kubernetes_api.environment import ConfigError, compose
from tests.kubernetes_api.errors import ApiError
from tests.kubernetes_api.objects import PODS, Object, is_finished, key_of, set_condition, timestamp
from tests.kubernetes_api.storage import Storage, record_event


class Kubelet:
    """The processes of all pods."""

    def __init__(self, storage: Storage, folder: Path, image_environment: Mapping[str, str]) -> None:
        self.storage, self.folder = storage, folder
        self.image_environment = dict(image_environment)
        self.refused_images: set[str] = set()
        self.logs: dict[str, PodLog] = {}
        self._containers: dict[str, Container] = {}
        self._ended: dict[str, int] = {}
        """uid -> how its process ended, not reported yet."""
        self._lost: set[str] = set()
        self.pokes = 0
        """Raised when there is something to do that is no change of an object."""

    def sync(self) -> None:
        """One pass: start, stop, report."""
        pods = {pod["metadata"]["uid"]: pod for pod in self.storage.list(PODS)}
        with self.storage.changed:
            ended, self._ended = self._ended, {}
        for uid, code in ended.items():
            if uid in pods and uid not in self._lost:
                self._report_end(pods[uid], self._containers[uid], code)
            self._containers.pop(uid).join()
        for uid, container in list(self._containers.items()):
            if uid not in pods:
                container.kill()
        for uid in list(self.logs):
            if uid not in pods and uid not in self._containers:
                self.logs.pop(uid).close()
        for pod in self.storage.list(PODS):
            uid = pod["metadata"]["uid"]
            if "deletionTimestamp" in pod["metadata"]:
                self._stop(pod)
            elif pod["spec"].get("nodeName") and uid not in self._containers and _is_pending(pod):
                self._start(pod)

    def _start(self, pod: Object) -> None:
        container = pod["spec"]["containers"][0]
        if not pod["status"].get("containerStatuses"):  # the next pass goes on from here
            self._wait(pod, "ContainerCreating", "")
            return
        self.logs.setdefault(pod["metadata"]["uid"], PodLog())
        if container["image"] in self.refused_images:
            self._refuse_image(pod, container["image"])
            return
        try:
            folder = self._folder(pod)
            environment, command = compose(self.storage, pod, self.image_environment, folder)
        except ConfigError as problem:
            self._wait(pod, "CreateContainerConfigError", str(problem))
            return
        self._run(pod, environment, command, folder)

    def _folder(self, pod: Object) -> Path:
        """The pod's own folder: where it works and keeps temporary files."""
        folder = self.folder / str(pod["metadata"]["uid"])
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _run(self, pod: Object, environment: dict[str, str], command: list[str], folder: Path) -> None:
        uid = pod["metadata"]["uid"]
        try:
            process = Container(
                uid, command, environment, folder, self.logs[uid], lambda code: self._note_end(uid, code)
            )
        except OSError as problem:
            self._report_start_error(pod, command[0] if command else "", problem)
            return
        self._containers[uid] = process

        def change(target: Object) -> None:
            target["status"] |= {"phase": "Running", "podIP": "127.0.0.1", "hostIP": "127.0.0.1"}
            target["status"]["startTime"] = timestamp()
            _set_state(target, {"running": {"startedAt": timestamp()}}, ready=True)
            set_condition(target, "Ready", "True")

        self._update(pod, change)

    def _note_end(self, uid: str, code: int) -> None:
        with self.storage.changed:
            self._ended[uid] = code
            self.poke()

    def _stop(self, pod: Object) -> None:
        """End a pod that is being deleted; when nothing runs any more, let its object go."""
        metadata = pod["metadata"]
        container = self._containers.get(metadata["uid"])
        if container is not None:
            container.terminate(metadata.get("deletionGracePeriodSeconds") or 0)
            return
        if not is_finished(pod):
            # It never ran: the kubelet, or the pod garbage collector for a pod without a node, ends it.
            self._update(pod, lambda target: target["status"].update(phase="Failed"))
        with contextlib.suppress(ApiError):
            self.storage.delete(PODS, *key_of(pod), grace_seconds=0, uid=metadata["uid"])

    def _report_end(self, pod: Object, container: Container, code: int) -> None:
        # A shell reports a signal as 128 + its number, and so does a container runtime.
        exit_code = code if code >= 0 else 128 - code
        reason = "OOMKilled" if container.oom_killed else "Error" if exit_code else "Completed"
        started = _state(pod).get("running", {}).get("startedAt", timestamp())
        ended: dict[str, Any] = {"exitCode": exit_code, "reason": reason, "startedAt": started}
        ended["finishedAt"] = timestamp()

        def change(target: Object) -> None:
            if container.evicted is not None:
                target["status"] |= {"phase": "Failed", "reason": "Evicted", "message": container.evicted}
            if not is_finished(target):
                target["status"]["phase"] = "Failed" if exit_code else "Succeeded"
            _set_state(target, {"terminated": ended}, ready=False)
            set_condition(target, "Ready", "False", "PodFailed" if exit_code else "PodCompleted")

        self._update(pod, change)

    def _report_start_error(self, pod: Object, command: str, problem: OSError) -> None:
        text = "executable file not found in $PATH" if problem.errno == errno.ENOENT else "permission denied"
        message = f'failed to create containerd task: exec: "{command}": {text}: unknown'
        self._warn(pod, f"Error: {message}")
        self.logs[pod["metadata"]["uid"]].close()

        def change(target: Object) -> None:
            target["status"]["phase"] = "Failed"
            ended = {"exitCode": 128, "reason": "StartError", "message": message, "finishedAt": timestamp()}
            _set_state(target, {"terminated": ended}, ready=False)

        self._update(pod, change)

    def _refuse_image(self, pod: Object, image: str) -> None:
        if _state(pod).get("waiting", {}).get("reason") == "ImagePullBackOff":
            return
        cause = f'failed to pull and unpack image "{image}": failed to resolve reference "{image}": not found'
        self._warn(pod, f'Failed to pull image "{image}": rpc error: code = NotFound: {cause}')
        self._wait(pod, "ErrImagePull", cause)
        self._wait(pod, "ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: {cause}')

    def _wait(self, pod: Object, reason: str, message: str) -> None:
        waiting = {"reason": reason, **({"message": message} if message else {})}
        if _state(pod).get("waiting") == waiting:
            return
        if reason == "CreateContainerConfigError":
            self._warn(pod, f"Error: {message}")
        self._update(pod, lambda target: _set_state(target, {"waiting": waiting}, ready=False))

    def _update(self, pod: Object, change: Any) -> None:
        with contextlib.suppress(ApiError):
            self.storage.update(PODS, *key_of(pod), change)

    def _warn(self, pod: Object, message: str) -> None:
        record_event(self.storage, pod, "Warning", "Failed", message, "kubelet")

    def poke(self) -> None:
        """Have the control plane look again."""
        with self.storage.changed:
            self.pokes += 1
            self.storage.changed.notify_all()

    def container(self, pod: Object) -> Container | None:
        """The process of a pod, while it runs."""
        return self._containers.get(pod["metadata"]["uid"])

    def lose(self, pod: Object) -> None:
        """The node is gone: its process ends and nobody reports how."""
        self._lost.add(pod["metadata"]["uid"])
        if container := self.container(pod):
            container.kill()

    def stop(self) -> None:
        """Kill everything and wait for it."""
        for container in list(self._containers.values()):
            container.kill()
        for container in list(self._containers.values()):
            container.join()


def _is_pending(pod: Object) -> bool:
    return bool(pod["status"].get("phase") == "Pending")


def _state(pod: Object) -> dict[str, Any]:
    statuses = pod["status"].get("containerStatuses") or [{}]
    return dict(statuses[0].get("state") or {})


def _set_state(pod: Object, state: dict[str, Any], *, ready: bool) -> None:
    container = pod["spec"]["containers"][0]
    pod["status"]["containerStatuses"] = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": container["image"],
            "ready": ready,
            "restartCount": 0,
            "state": state,
        }
    ]
