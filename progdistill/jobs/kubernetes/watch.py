"""A local copy of objects in the cluster, kept up to date by a watch."""

import json
import threading
import time
from typing import Final

from progdistill.errors import ProgdistillError, TransientError
from progdistill.jobs.kubernetes.api import ClusterApi, GoneError, Object, thread_error

WATCH_SECONDS: Final = 60  # before the next list: bounds what a silently dead connection costs
MIN_ROUND_SECONDS: Final = 1.0  # for a server that ends every watch at once


class WatchCache:
    """The objects under `path` that match a label selector, watched by a thread of its own.

    `changed` is set whenever something changed. Deleted objects stay in `ever_seen`.
    """

    def __init__(self, api: ClusterApi, path: str, selector: str, changed: threading.Event) -> None:
        self._api, self._path, self._selector, self._changed = api, path, selector, changed
        self._lock = threading.Lock()
        self._objects: dict[str, Object] = {}
        self._present: set[str] = set()
        self.listed = threading.Event()  # set after the first list
        self.error: ProgdistillError | None = None  # what ended the watch for good
        threading.Thread(target=self._run, name=f"watch {path}", daemon=True).start()

    def present(self) -> list[Object]:
        """The objects that exist."""
        with self._lock:
            return [item for uid, item in self._objects.items() if uid in self._present]

    def ever_seen(self) -> list[Object]:
        """The objects that exist or existed, in their last known state."""
        with self._lock:
            return list(self._objects.values())

    def find(self, uid: str) -> Object | None:
        """The object with this uid, or None if it does not exist."""
        with self._lock:
            return self._objects[uid] if uid in self._present else None

    def _run(self) -> None:
        try:
            while not self._api.closed.is_set():
                began = time.monotonic()
                self._api.retry(self._list_and_watch)
                self._api.closed.wait(max(0.0, MIN_ROUND_SECONDS - (time.monotonic() - began)))
        except Exception as error:
            if not self._api.closed.is_set():
                self.error = thread_error(error, f"watching {self._path}")
                self._changed.set()

    def _list_and_watch(self) -> None:
        """One list, and a watch from its version on. Only the list may fail: a broken watch just ends."""
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
                    return
                if event["type"] != "BOOKMARK":
                    self._apply(event["object"], deleted=event["type"] == "DELETED")
        except (GoneError, TransientError, json.JSONDecodeError, UnicodeDecodeError):
            return  # may be cut off anywhere, even within a character

    def _replace(self, items: list[Object]) -> None:
        with self._lock:
            self._present = {item["metadata"]["uid"] for item in items}
            self._objects |= {item["metadata"]["uid"]: item for item in items}
        self.listed.set()
        self._changed.set()

    def _apply(self, item: Object, *, deleted: bool) -> None:
        uid = item["metadata"]["uid"]
        with self._lock:
            self._objects[uid] = item
            (self._present.discard if deleted else self._present.add)(uid)
        self._changed.set()
