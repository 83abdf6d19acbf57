"""The Kubernetes API as this package uses it: requests with retries, permissions, watches."""

import email.utils
import json
import math
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from progdistill.config.cluster import ClusterSettings
from progdistill.errors import ProgdistillError, TransientError, UsageError


class Permission(NamedTuple):
    """One verb on one resource of one API group; pods/log is a resource of its own."""

    group: str
    resource: str
    verb: str

    def rule(self) -> str:
        """The rule of a Role that grants it."""
        return f'- {{apiGroups: ["{self.group}"], resources: ["{self.resource}"], verbs: ["{self.verb}"]}}'

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{'.' + self.group if self.group else ''}"


def _each(group: str, resource: str, *verbs: str) -> tuple[Permission, ...]:
    return tuple(Permission(group, resource, verb) for verb in verbs)


REQUIRED_PERMISSIONS: Final = (
    *_each("batch", "jobs", "create", "delete", "get", "list", "watch"),
    *_each("", "services", "create", "delete", "get", "patch"),
    *_each("", "pods", "list", "watch"),
    *_each("", "pods/log", "get"),
    *_each("", "events", "list"),
)
"""In the namespace of the jobs, for whoever starts a run: a person, or the pod of a Metaflow step."""

JOBSET_PERMISSIONS: Final = _each("jobset.x-k8s.io", "jobsets", "create", "delete", "get", "list", "watch")
"""With cluster.use_jobset instead of those on jobs and services."""


Object = dict[str, Any]
Value = TypeVar("Value")

CONNECT_SECONDS: Final = 10.0
READ_SECONDS: Final = 30.0
WATCH_SECONDS: Final = 60
"""How long one watch lasts before the next list: what a connection costs that died in silence."""

LONGEST_PAUSE_SECONDS: Final = 30.0
SAID_AFTER_SECONDS: Final = 10.0

_KUBECONFIG: Final = "~/.kube/config"
_OWN_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class ConflictError(ProgdistillError):
    """An object of that name exists (409)."""


class NotFoundError(ProgdistillError):
    """There is no such object (404)."""


class NotReadyError(ProgdistillError):
    """The request is right but too early (400), such as the log of a container that has not started."""


class GoneError(ProgdistillError):
    """The watch cannot go on from where it was (410): list again."""


class ClusterApi:
    """One namespace of a cluster, as the kubeconfig or the pod's own service account sees it."""

    def __init__(
        self, client: Any, namespace: str, patience_seconds: float, renewed: Callable[[], Any] | None = None
    ) -> None:
        """`renewed` makes a client with credentials read anew, for when the server refuses the old ones."""
        self._client, self.namespace, self._patience_seconds = client, namespace, patience_seconds
        self._renewed, self._renewing = renewed, threading.Lock()
        self.server: str = client.configuration.host
        self.closed = threading.Event()
        """Set when nobody wants answers any more: whoever waits to try again gives up."""

    def path(self, group: str, resource: str, *more: str) -> str:
        """The path of a resource in the namespace; group is `v1`, `batch/v1` and so on."""
        root = "api" if "/" not in group else "apis"
        return "/".join(["", root, group, "namespaces", self.namespace, resource, *more])

    def get(self, path: str, **query: Any) -> Object | None:
        """Return the object or list, None when there is none."""
        return self._patiently(lambda: self._json("GET", path, query))

    def create(self, path: str, body: Object) -> Object:
        """Create an object; ConflictError when one has its name."""
        created = self._patiently(lambda: self._json("POST", path, {}, body))
        if created is None:
            raise UsageError(
                f"there is no {path} in {self.server}: create the namespace, or install what has it"
            )
        return created

    def patch(self, path: str, changes: Object) -> None:
        """Merge changes into an object."""
        self._patiently(lambda: self._json("PATCH", path, {}, changes))

    def delete(self, path: str, *, uid: str) -> None:
        """Delete this very object and wait for nothing; what it owns goes before it."""
        body = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        with suppress(ConflictError):  # another object has the name by now
            self._patiently(lambda: self._json("DELETE", path, {}, body))

    def lines(self, path: str, *, read_seconds: float, **query: Any) -> Iterator[bytes]:
        """Yield the lines of a stream, once: TransientError when it breaks off, GoneError on 410.

        Lines keep their ends, as those of a file do: one without may be cut off, for a server ends its answer
        properly even where its own source broke off.
        """
        with self._explained("GET", path):
            response = self._call("GET", path, query, None, (CONNECT_SECONDS, read_seconds))
            try:
                rest = b""
                for chunk in response.stream(amt=None, decode_content=False):
                    *whole, rest = (rest + chunk).split(b"\n")
                    yield from (line + b"\n" for line in whole)
                if rest:
                    yield rest
            finally:
                response.close()

    def may(self, permission: Permission) -> bool:
        """Whether the cluster lets us, by its own word."""
        resource, _, subresource = permission.resource.partition("/")
        attributes = {"namespace": self.namespace, "verb": permission.verb, "group": permission.group}
        attributes |= {"resource": resource, **({"subresource": subresource} if subresource else {})}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = self.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        return bool(answer.get("status", {}).get("allowed"))

    def _json(self, method: str, path: str, query: Object, body: Object | None = None) -> Object | None:
        with suppress(NotFoundError), self._explained(method, path):
            response = self._call(method, path, query, body, (CONNECT_SECONDS, READ_SECONDS))
            found: Object = json.loads(response.data)
            return found
        return None

    def _call(
        self, method: str, path: str, query: Object, body: Object | None, timeout: tuple[float, float]
    ) -> Any:
        client = self._client
        try:
            return self._send(client, method, path, query, body, timeout)
        except _api_exception() as error:
            if error.status != 401 or self._renewed is None:
                raise
        # As kubectl does: token files, OpenID Connect and some plugins do not say when credentials end.
        with self._renewing:
            if self._client is client:
                self._client = self._renewed()
        return self._send(self._client, method, path, query, body, timeout)

    @staticmethod
    def _send(
        client: Any,
        method: str,
        path: str,
        query: Object,
        body: Object | None,
        timeout: tuple[float, float],
    ) -> Any:
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        return client.call_api(
            path,
            method,
            query_params=list(query.items()),
            header_params={"Accept": "application/json", "Content-Type": content},
            body=body,
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
            _preload_content=False,
            _request_timeout=timeout,
        )

    def _explained(self, method: str, path: str) -> "_Explained":
        return _Explained(self, method, path)

    def _patiently(self, call: Callable[[], Value]) -> Value:
        return retry(call, self.closed, self._patience_seconds)

    def patient(self, call: Callable[[], None]) -> None:
        """Call until it ends well, with pauses between passing faults and a bound on their duration."""
        self._patiently(call)


def unexpected_error(error: Exception, what: str) -> ProgdistillError:
    """What to raise for an error of a thread that nobody foresaw: its driver must not wait for ever."""
    traceback.print_exception(error)
    return ProgdistillError(
        f"{what} ended by {type(error).__name__}: {error}, which is an error of this package, to be reported"
        " with the lines above; the Job goes on: run the same command again to attach to it"
    )


class RetryLaterError(TransientError):
    """The server asks for a pause."""

    def __init__(self, message: str, pause_seconds: float | None = None) -> None:
        super().__init__(message)
        self.pause_seconds = pause_seconds


def retry(call: Callable[[], Value], closed: threading.Event, patience_seconds: float) -> Value:
    """Return what `call` returns, after passing faults with growing pauses for as long as `patience_seconds`.

    Raises the last fault, with how long it has lasted, when patience ends or nobody waits any more.
    """
    began: float | None = None
    pause, said = 0.25, False
    while True:
        try:
            return call()
        except TransientError as error:
            now = time.monotonic()
            began = now if began is None else began
            asked = error.pause_seconds if isinstance(error, RetryLaterError) else None
            # Not sooner than asked, nor in a hurry: some ask for no pause at all, again and again.
            wait = max(pause * random.uniform(0.75, 1.25), asked or 0.0)
            if now + wait - began > patience_seconds or closed.is_set():
                raise TransientError(f"{error} (for {now - began:.0f} s)") from error
            if not said and now + wait - began > SAID_AFTER_SECONDS:
                said = True
                print(f"{error}; trying again for {patience_seconds:.0f} s", file=sys.stderr, flush=True)
            closed.wait(wait)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def connect(settings: ClusterSettings) -> ClusterApi:
    """Find the cluster: by kubeconfig, else as a pod in it.

    Raises UsageError, naming both ways, where neither is there.
    """
    client, namespace = _found(settings)
    return ClusterApi(client, namespace, settings.api_patience_seconds, renewed=lambda: _found(settings)[0])


def _found(settings: ClusterSettings) -> tuple[Any, str]:
    """A client with the credentials that are there now, and the namespace."""
    from kubernetes import client, config

    configuration = client.Configuration()
    try:
        if settings.context is None and not _has_kubeconfig() and "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)
            namespace = _OWN_NAMESPACE.read_text().strip() if _OWN_NAMESPACE.exists() else None
        else:
            # Said here, since the client looks at the variable only once, when it is imported.
            file = os.environ.get("KUBECONFIG") or os.path.expanduser(_KUBECONFIG)
            config.load_kube_config(
                file, settings.context, client_configuration=configuration, persist_config=False
            )
            contexts, active = config.list_kube_config_contexts(file)
            chosen = next((c for c in contexts if c["name"] == settings.context), active)
            namespace = chosen["context"].get("namespace")
    except config.ConfigException as error:
        raise UsageError(
            f"no cluster is configured ({error}): outside a cluster, point KUBECONFIG to a kubeconfig file"
            " (or put one at ~/.kube/config) and choose with --set cluster.context=NAME; inside, give the pod"
            " a service account whose token is mounted"
        ) from None
    configuration.retries = False  # ours have bounds and are told
    configuration.connection_pool_maxsize = 64
    return client.ApiClient(configuration), settings.namespace or namespace or "default"


def _has_kubeconfig() -> bool:
    return bool(os.environ.get("KUBECONFIG")) or os.path.exists(os.path.expanduser(_KUBECONFIG))


def _api_exception() -> Any:
    from kubernetes.client.exceptions import ApiException

    return ApiException


class _Explained:
    """Turns what the client raises into our errors."""

    def __init__(self, api: ClusterApi, method: str, path: str) -> None:
        self._api, self._method, self._path = api, method, path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import urllib3.exceptions

        if isinstance(error, _api_exception()):
            raise self._explained(error) from None
        if isinstance(error, (urllib3.exceptions.HTTPError, OSError, json.JSONDecodeError, UnicodeError)):
            raise TransientError(f"API server {self._api.server} does not answer: {error}") from error

    def _explained(self, error: Any) -> ProgdistillError:
        message, where = _message(error), f"{self._method} {self._api.server}{self._path}"
        if error.status == 429 or error.status >= 500:
            return RetryLaterError(f"{where}: {error.status} {message}", _retry_after(error))
        if error.status == 404:
            return NotFoundError(f"{where}: {message}")
        if error.status == 409:
            return ConflictError(message)
        if error.status == 410:
            return GoneError(message)
        if error.status == 400:
            return NotReadyError(f"{where}: {message}")
        if error.status == 401:
            return UsageError(f"{self._api.server} does not accept the credentials: renew them ({message})")
        if error.status == 403 and "exceeded quota" not in message:
            return UsageError(f"the cluster does not allow it: {message}.\n{how_to_be_allowed(message)}")
        return UsageError(f"{where}: {error.status} {message}")


def how_to_be_allowed(message: str) -> str:
    """Which rule grants what a 403 says is missing; the whole set where it does not say."""
    import re

    known = (*REQUIRED_PERMISSIONS, *JOBSET_PERMISSIONS)
    found = re.search(r'cannot (\w+) resource "([^"]+)" in API group "([^"]*)"', message)
    missing = [p for p in known if found and (p.group, p.resource, p.verb) == (found[3], found[2], found[1])]
    return rules(missing or list(REQUIRED_PERMISSIONS))


def rules(missing: list[Permission]) -> str:
    """The rules that a Role must have, for a person to copy."""
    lines = "\n".join(f"  {permission.rule()}" for permission in missing)
    return f"A Role in the jobs' namespace, bound to whoever starts runs, grants it with\nrules:\n{lines}"


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


def _retry_after(error: Any) -> float | None:
    """The pause that the server asks for, None where it asks for none that can be understood."""
    text = str((error.headers or {}).get("Retry-After", ""))
    with suppress(ValueError):
        seconds = float(text)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    with suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return None


SHORTEST_ROUND_SECONDS: Final = 1.0


class WatchCache:
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
            self._end(unexpected_error(error, f"watching {self._path}"))

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
        except (GoneError, TransientError, json.JSONDecodeError, UnicodeDecodeError):
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
