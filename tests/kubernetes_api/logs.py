"""pods/log: which container's log is asked for, and from where."""

import datetime
from collections.abc import Iterator

from tests.kubernetes_api import clock
from tests.kubernetes_api.errors import bad_request, omissions
from tests.kubernetes_api.kubelet import Kubelet
from tests.kubernetes_api.resources import PODS
from tests.kubernetes_api.routes import Route
from tests.kubernetes_api.storage import Storage


class LogReader:
    """Reads logs for requests."""

    def __init__(self, storage: Storage, kubelet: Kubelet) -> None:
        self.storage, self.kubelet = storage, kubelet

    def wake(self) -> None:
        """Have those who follow a log look whether they are to go on."""
        for log in list(self.kubelet.logs.values()):
            with log.changed:
                log.changed.notify_all()

    def read(self, route: Route) -> Iterator[bytes]:
        """The log's pieces; 400 while the container waits, nothing before the pod is on a node."""
        pod = self.storage.get(PODS, route.namespace, route.name)
        name = pod["spec"]["containers"][0]["name"]
        if route.query.get("container", name) != name:
            raise bad_request(f"container {route.query['container']} is not valid for pod {route.name}")
        if route.flag("previous"):
            message = f'previous terminated container "{name}" in pod "{route.name}" not found'
            raise bad_request(message)
        if route.query.get("stream", "All") != "All":
            raise omissions("separate log streams")
        if route.flag("follow") and "limitBytes" in route.query:
            raise omissions("limitBytes with follow")
        if not pod["spec"].get("nodeName"):
            return iter(())
        state = (pod["status"].get("containerStatuses") or [{}])[0].get("state") or {}
        if not state or "waiting" in state:
            reason = state.get("waiting", {}).get("reason", "ContainerCreating")
            if reason in ("ErrImagePull", "ImagePullBackOff"):
                reason = "trying and failing to pull image"
            raise bad_request(f'container "{name}" in pod "{route.name}" is waiting to start: {reason}')
        log = self.kubelet.logs.get(pod["metadata"]["uid"])
        if log is None:
            return iter(())
        return log.read(
            follow=route.flag("follow"),
            since=_since(route),
            tail=route.number("tailLines"),
            timestamps=route.flag("timestamps"),
        )


def _since(route: Route) -> datetime.datetime | None:
    if route.query.get("sinceTime"):
        # The API server hands it on to the kubelet in whole seconds (registry/core/pod/strategy.go), so that
        # whoever goes on from a time stamp gets the lines of that second again.
        return clock.parse(route.query["sinceTime"]).replace(microsecond=0)
    if route.query.get("sinceSeconds"):
        return clock.now() - datetime.timedelta(seconds=int(route.query["sinceSeconds"]))
    return None
