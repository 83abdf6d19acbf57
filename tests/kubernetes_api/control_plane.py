"""The thread that runs all controllers when something has changed or is due."""

import datetime
import threading

from tests.kubernetes_api.jobs import JobController
from tests.kubernetes_api.kubelet import Kubelet
from tests.kubernetes_api.objects import now
from tests.kubernetes_api.scheduler import schedule
from tests.kubernetes_api.storage import Storage, collect_garbage


class ControlPlane:
    """Controllers, scheduler and kubelets, one after the other in one thread."""

    def __init__(self, storage: Storage, jobs: JobController, kubelet: Kubelet) -> None:
        self.storage, self.jobs, self.kubelet = storage, jobs, kubelet
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="control-plane")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        with self.storage.changed:
            self._stopping = True
            self.storage.changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        wake: list[datetime.datetime] = []
        seen = (-1, -1)
        while True:
            with self.storage.changed:
                while not self._stopping and seen == self._state() and not _due(wake):
                    self.storage.changed.wait(_seconds_to(wake))
                if self._stopping:
                    return
                seen = self._state()
                try:
                    wake = self._pass()
                except Exception as problem:
                    self.storage.problems.append(problem)
                    self.storage.changed.notify_all()
                    return

    def _state(self) -> tuple[int, int]:
        return self.storage.version, self.kubelet.pokes

    def _pass(self) -> list[datetime.datetime]:
        collect_garbage(self.storage)
        wake = self.jobs.sync()
        schedule(self.storage)
        self.kubelet.sync()
        return wake


def _due(wake: list[datetime.datetime]) -> bool:
    return any(when <= now() for when in wake)


def _seconds_to(wake: list[datetime.datetime]) -> float | None:
    if not wake:
        return None
    return max(0.001, (min(wake) - now()).total_seconds())
