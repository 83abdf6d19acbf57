"""Keeps the latest state of a job's objects: list, watch, and again when the watch ends, however it ends."""

import json
import threading
import time
from typing import Final

from progdistill.errors import ProgdistillError, TransientError
from progdistill.jobs.kubernetes_api import WATCH_SECONDS, ClusterApi, ExpiredError, Object, ended_by

SHORTEST_ROUND_SECONDS: Final = 1.0


class Watched:
    """Objects under a path with a label, by uid, as a thread last saw them. What is gone stays, marked."""

    def __init__(self, api: ClusterApi, path: str, selector: str, changed: threading.Event) -> None:
        self._api, self._path, self._selector, self._changed = api, path, selector, changed
        self._lock = threading.Lock()
        self._objects: dict[str, Object] = {}
        self._present: set[str] = set()
        self.listed = threading.Event()
        """Set once the server has answered."""
        self.error: ProgdistillError | None = None
        """What ended the watching for good."""
        self._thread = threading.Thread(target=self._run, name=f"watch {path}", daemon=True)
        self._thread.start()

    def present(self) -> list[Object]:
        """What exists."""
        with self._lock:
            return [item for uid, item in self._objects.items() if uid in self._present]

    def ever_seen(self) -> list[Object]:
        """What exists or existed, as last seen."""
        with self._lock:
            return list(self._objects.values())

    def find(self, uid: str) -> Object | None:
        """One that exists."""
        with self._lock:
            return self._objects[uid] if uid in self._present else None

    def _run(self) -> None:
        try:
            while not self._api.closed.is_set():
                began = time.monotonic()
                self._api.patient(self._round)
                # A server that ends every watch at once is not asked in a hurry.
                self._api.closed.wait(max(0.0, SHORTEST_ROUND_SECONDS - (time.monotonic() - began)))
        except ProgdistillError as error:
            self._end(error)
        except Exception as error:
            self._end(ended_by(error, f"watching {self._path}"))

    def _end(self, error: ProgdistillError) -> None:
        if not self._api.closed.is_set():
            self.error = error
            self._changed.set()

    def _round(self) -> None:
        """One list, and the watch from there on. Only a list that fails is a fault: it begins a new bound."""
        listing = self._api.get(self._path, labelSelector=self._selector) or {"items": [], "metadata": {}}
        self._replace(listing["items"])
        query = {
            "labelSelector": self._selector,
            "watch": "true",
            "resourceVersion": listing["metadata"].get("resourceVersion", "0"),
            "timeoutSeconds": WATCH_SECONDS,
            "allowWatchBookmarks": "true",
        }
        try:
            for line in self._api.lines(self._path, read_seconds=WATCH_SECONDS + 15, **query):
                event = json.loads(line)
                if event["type"] == "ERROR" or self._api.closed.is_set():
                    return  # 410 as a rule
                if event["type"] != "BOOKMARK":
                    self._apply(event["object"], gone=event["type"] == "DELETED")
        except (ExpiredError, TransientError, json.JSONDecodeError, UnicodeDecodeError):
            return  # cut off, perhaps within a character

    def _replace(self, items: list[Object]) -> None:
        with self._lock:
            self._present = {item["metadata"]["uid"] for item in items}
            self._objects |= {item["metadata"]["uid"]: item for item in items}
        self.listed.set()
        self._changed.set()

    def _apply(self, item: Object, *, gone: bool) -> None:
        uid = item["metadata"]["uid"]
        with self._lock:
            self._objects[uid] = item
            (self._present.discard if gone else self._present.add)(uid)
        self._changed.set()
