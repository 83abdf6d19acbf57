"""Watches: the history of a resource from a version on, as a stream of events.

Kubernetes documentation, "API Concepts": "Efficient detection of changes", "Watch bookmarks", "410 Gone".
"""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

from tests.kubernetes_api.api import Api
from tests.kubernetes_api.errors import ApiError, bad_request, expired, omissions
from tests.kubernetes_api.routes import Route
from tests.kubernetes_api.selectors import Matches
from tests.kubernetes_api.storage import Change

BOOKMARK_SECONDS = 60.0


def watch_events(api: Api, route: Route, stopping: threading.Event) -> Iterator[bytes]:
    """Lines of JSON; an empty piece now and then while nothing happens."""
    if route.flag("sendInitialEvents"):
        raise omissions("sendInitialEvents")
    matches = api.selected(route)
    text = route.query.get("resourceVersion", "")
    if text and not text.isdigit():
        raise bad_request(
            f'invalid resource version "{text}": strconv.ParseUint: parsing "{text}": invalid syntax'
        )
    return _events(api, route, matches, int(text or 0), stopping)


def _events(
    api: Api, route: Route, matches: Matches, version: int, stopping: threading.Event
) -> Iterator[bytes]:
    storage, resource = api.storage, route.resource
    seconds = route.number("timeoutSeconds")
    ends = time.monotonic() + (1800 if seconds is None else seconds)
    bookmarks = route.flag("allowWatchBookmarks")
    next_bookmark = time.monotonic() + BOOKMARK_SECONDS
    with storage.changed:
        expiries = storage.expiries
        start = []
        if version == 0:  # "get state and start at any": the objects there are come first
            items = storage.list(resource, route.namespace or None)
            start = [_line("ADDED", item) for item in items if matches(item)]
            version = storage.version
    yield b""
    yield from start
    while not stopping.is_set():
        # Nothing is sent while the lock is held: a slow client must not stop the cluster.
        problem: ApiError | None = None
        changes: list[Change] = []
        with storage.changed:
            left = ends - time.monotonic()
            try:
                if storage.expiries != expiries:
                    raise expired(version, storage.oldest)
                changes = list(storage.changes(resource, version))
                version = max(version, storage.version)
            except ApiError as gone:
                problem = gone
            if not changes and problem is None and left > 0:
                storage.changed.wait(min(left, 0.5))
        if problem is not None:
            yield _line("ERROR", problem.status())
            return
        for change in changes:
            if route.namespace and change.item["metadata"].get("namespace") != route.namespace:
                continue
            kind = _seen(change, matches)
            if kind is not None:
                yield _line(kind, change.item)
        if not changes:
            if bookmarks and (left <= 0 or time.monotonic() >= next_bookmark):
                next_bookmark = time.monotonic() + BOOKMARK_SECONDS
                yield _bookmark(route, version)
            if left <= 0:
                return
            yield b""


def _seen(change: Change, matches: Matches) -> str | None:
    """What a watcher with a selector sees: objects come and go as they begin and cease to match."""
    before = change.before is not None and matches(change.before)
    after = change.kind != "DELETED" and matches(change.item)
    if before:
        return "MODIFIED" if after else "DELETED"
    return "ADDED" if after else None


def _bookmark(route: Route, version: int) -> bytes:
    resource = route.resource
    item = {"kind": resource.kind, "apiVersion": resource.api_version}
    return _line(
        "BOOKMARK", {**item, "metadata": {"resourceVersion": str(version), "creationTimestamp": None}}
    )


def _line(kind: str, item: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"
