"""The Kubernetes API as the launcher uses it: requests with retries, credentials, permissions."""

import json
import logging
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError, InvalidHeader

from progdistill.config.cluster import ClusterSettings
from progdistill.errors import ProgdistillError, TransientError, UsageError

logger = logging.getLogger(__name__)

Object = dict[str, Any]
"""An object or a list of the API, as JSON."""

Value = TypeVar("Value")

CONNECT_SECONDS: Final = 10.0
READ_SECONDS: Final = 30.0
MAX_PAUSE_SECONDS: Final = 30.0
WARN_AFTER_SECONDS: Final = 10.0

STARTING_SECONDS: Final = 60.0
"""How long an API server that was away may answer 401 and 403: it serves before it has read accounts and roles."""

_LACKS_PERMISSION: Final = re.compile(r'cannot (\w+) resource "([^"]+)" in API group "([^"]*)"')
_OWN_NAMESPACE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Permission(NamedTuple):
    """One verb on one resource of one API group; pods/log is a resource of its own."""

    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{'.' + self.group if self.group else ''}"


REQUIRED_PERMISSIONS: Final = (
    *(Permission("batch", "jobs", verb) for verb in ("create", "delete", "get", "list", "watch")),
    *(Permission("", "services", verb) for verb in ("create", "delete", "get", "patch")),
    *(Permission("", "pods", verb) for verb in ("list", "watch")),
    Permission("", "pods/log", "get"),
    Permission("", "events", "list"),
)
"""What the driver needs in the namespace of the jobs, be it a person's machine or the pod of a step."""

OPTIONAL_PERMISSIONS: Final = (
    Permission("kueue.x-k8s.io", "workloads", "list"),
    Permission("kueue.x-k8s.io", "localqueues", "get"),
    Permission("", "serviceaccounts", "get"),
    Permission("", "persistentvolumeclaims", "get"),
)
"""What makes messages better: without one of them a check or a reason is left out."""


class ConflictError(ProgdistillError):
    """409: an object of that name exists, or a precondition failed."""


class NotFoundError(ProgdistillError):
    """404: there is no such object."""


class ForbiddenError(UsageError):
    """403: this user lacks a permission."""


class NotReadyError(ProgdistillError):
    """400: the request is too early, as for the log of a container that has not started."""


class GoneError(ProgdistillError):
    """410: the watch's resource version has expired; list again."""


class RetryLaterError(TransientError):
    """429 or 5xx: the server is busy or has just started, and may say how long to wait."""

    def __init__(self, message: str, pause_seconds: float | None = None) -> None:
        super().__init__(message)
        self.pause_seconds = pause_seconds


class ClusterApi:
    """One namespace of a cluster. Requests are retried for `timeout_seconds`.

    `renew_client` returns a client with newly read credentials; it is called when the server answers 401.
    """

    def __init__(
        self, client: Any, namespace: str, timeout_seconds: float, renew_client: Callable[[], Any] | None = None
    ) -> None:
        self._client, self.namespace, self._timeout_seconds = client, namespace, timeout_seconds
        self._renew_client, self._renew_lock = renew_client, threading.Lock()
        self._last_silence = -math.inf  # when the server last did not answer
        self.server: str = client.configuration.host
        self.closed = threading.Event()  # when set, no request is retried and all threads end

    def path(self, group_version: str, resource: str, *more: str) -> str:
        """The path of a resource in the namespace; `group_version` is `v1`, `batch/v1` and so on."""
        root = "apis" if "/" in group_version else "api"
        return "/".join(["", root, group_version, "namespaces", self.namespace, resource, *more])

    def get(self, path: str, **query: Any) -> Object | None:
        """Return the object or list, or None if it does not exist."""
        return self.retry(lambda: self._json("GET", path, query))

    def create(self, path: str, body: Object, *, dry_run: bool = False) -> Object:
        """Create an object; a dry run only asks whether it would be. Raises ConflictError if its name is taken."""
        query = {"dryRun": "All"} if dry_run else {}
        created = self.retry(lambda: self._json("POST", path, query, body))
        if created is None:
            raise UsageError(f"{self.server} has no {path}: create the namespace {self.namespace}")
        return created

    def patch(self, path: str, changes: Object) -> None:
        """Apply a JSON merge patch."""
        self.retry(lambda: self._json("PATCH", path, {}, changes))

    def delete(self, path: str, uid: str) -> None:
        """Begin to delete the object with this uid, in the foreground: its dependents go first."""
        body = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
        with suppress(ConflictError):  # another object has the name now
            self.retry(lambda: self._json("DELETE", path, {}, body))

    def lines(self, path: str, *, read_seconds: float, **query: Any) -> Iterator[bytes]:
        """Stream a response line by line, without retries.

        Lines keep their line ends. A last one without may be cut off: the server ends a response properly even when
        its own source broke off. Raises GoneError where the resource version of a watch has expired.
        """
        with self._translated_errors("GET", path):
            response = self._send("GET", path, query, None, read_seconds)
            try:
                yield from response
            finally:
                response.close()

    def can_i(self, permission: Permission) -> bool:
        """Ask the cluster whether this user has a permission (`kubectl auth can-i`)."""
        group, (resource, _, subresource) = "authorization.k8s.io/v1", permission.resource.partition("/")
        attributes = {"namespace": self.namespace, "verb": permission.verb, "group": permission.group}
        attributes |= {"resource": resource, "subresource": subresource}
        review: Object = {"apiVersion": group, "kind": "SelfSubjectAccessReview"}
        review |= {"spec": {"resourceAttributes": attributes}}
        answer = self.create(f"/apis/{group}/selfsubjectaccessreviews", review)
        return bool(answer.get("status", {}).get("allowed"))

    def retry(self, call: Callable[[], Value]) -> Value:
        """See the function of that name."""
        return retry(call, self.closed, self._timeout_seconds)

    def _json(self, method: str, path: str, query: Object, body: Object | None = None) -> Object | None:
        with suppress(NotFoundError), self._translated_errors(method, path):
            response = self._send(method, path, query, body, READ_SECONDS)
            return dict(json.loads(response.data))
        return None

    def _send(self, method: str, path: str, query: Object, body: Object | None, read_seconds: float) -> Any:
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        options = {
            "query_params": list(query.items()),
            "header_params": {"Accept": "application/json", "Content-Type": content},
            "body": body,
            "auth_settings": ["BearerToken"],
            "_return_http_data_only": True,
            "_preload_content": False,
            "_request_timeout": (CONNECT_SECONDS, read_seconds),
        }
        client = self._client
        try:
            return client.call_api(path, method, **options)
        except ApiException as error:
            if error.status != 401 or self._renew_client is None:
                raise
        # As kubectl does: token files, OpenID Connect and some plugins do not say when credentials expire.
        with self._renew_lock:
            if self._client is client:
                self._client = self._renew_client()
        return self._client.call_api(path, method, **options)

    @contextmanager
    def _translated_errors(self, method: str, path: str) -> Iterator[None]:
        try:
            yield
        except ApiException as error:
            raise self._translated(error, f"{method} {self.server}{path}") from None
        except (HTTPError, OSError, json.JSONDecodeError, UnicodeError) as error:
            self._last_silence = time.monotonic()
            raise TransientError(f"API server {self.server} does not answer: {error}") from error

    def _translated(self, error: Any, where: str) -> ProgdistillError:
        status, message = error.status, _message(error)
        is_starting = status in (401, 403) and time.monotonic() - self._last_silence < STARTING_SECONDS
        if status == 429 or status >= 500 or is_starting:
            return RetryLaterError(f"{where}: {status} {message}", _retry_after(error))
        if status == 401:
            return UsageError(f"{self.server} does not accept the credentials: renew them ({message})")
        if status == 403 and _LACKS_PERMISSION.search(message):
            return ForbiddenError(f"the cluster does not allow it: {message}.\n{_rules_for(message)}")
        kinds = {400: NotReadyError, 404: NotFoundError, 409: ConflictError, 410: GoneError}
        return kinds.get(status, UsageError)(f"{where}: {status} {message}")


def retry(call: Callable[[], Value], closed: threading.Event, timeout_seconds: float) -> Value:
    """Return what `call` returns; repeat it after TransientErrors, with growing pauses, for `timeout_seconds`."""
    began: float | None = None
    pause, has_warned = 0.25, False
    while True:
        try:
            return call()
        except TransientError as error:
            now = time.monotonic()
            began = now if began is None else began
            requested = error.pause_seconds if isinstance(error, RetryLaterError) else None
            # Never shorter than our own pause: some servers ask for 0 s, again and again.
            wait = max(pause * random.uniform(0.75, 1.25), requested or 0.0)
            if now + wait - began > timeout_seconds or closed.is_set():
                raise TransientError(f"{error} (for {now - began:.0f} s)") from error
            if not has_warned and now + wait - began > WARN_AFTER_SECONDS:
                has_warned = True
                logger.warning("%s; retrying for %.0f s", error, timeout_seconds)
            closed.wait(wait)
            pause = min(2 * pause, MAX_PAUSE_SECONDS)


def thread_error(error: Exception, task: str) -> ProgdistillError:
    """Return what the driver raises, so that it does not hang, when a thread has failed; log an unforeseen error."""
    if isinstance(error, ProgdistillError):
        return error
    logger.error("%s failed", task, exc_info=error)
    return ProgdistillError(
        f"{task} failed with {type(error).__name__}: {error}. This is a bug: report it with the traceback above. The"
        " Job keeps running: run the same command again to attach to it"
    )


def connect(settings: ClusterSettings) -> ClusterApi:
    """Connect to the cluster of the kubeconfig, or from inside a pod with its service account."""
    client, namespace = _configured_client(settings)
    return ClusterApi(client, namespace, settings.api_timeout_seconds, lambda: _configured_client(settings)[0])


def is_configured(settings: ClusterSettings) -> bool:
    """Whether there is a kubeconfig, a chosen context, or the token of a pod."""
    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ and _OWN_NAMESPACE.exists()
    has_file = bool(os.environ.get("KUBECONFIG")) or os.path.exists(os.path.expanduser("~/.kube/config"))
    return settings.context is not None or has_file or in_pod


def _configured_client(settings: ClusterSettings) -> tuple[Any, str]:
    """A client with the current credentials, and the namespace."""
    configuration = client.Configuration()
    # Read here, since the kubernetes package reads the variable only once, when it is imported.
    file = os.environ.get("KUBECONFIG") or os.path.expanduser("~/.kube/config")
    has_kubeconfig = bool(os.environ.get("KUBECONFIG")) or os.path.exists(file)
    try:
        if settings.context is None and not has_kubeconfig and "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)
            namespace = _OWN_NAMESPACE.read_text().strip() if _OWN_NAMESPACE.exists() else None
        else:
            config.load_kube_config(file, settings.context, client_configuration=configuration, persist_config=False)
            contexts, active = config.list_kube_config_contexts(file)
            chosen = next((c for c in contexts if c["name"] == settings.context), active)
            namespace = chosen["context"].get("namespace")
    except config.ConfigException as error:
        raise UsageError(
            f"no cluster is configured ({error}): outside a cluster, set KUBECONFIG to a kubeconfig file or create"
            " ~/.kube/config, and choose a context with --set cluster.context=NAME; inside, run the pod with a service"
            " account whose token is mounted"
        ) from None
    configuration.retries = False  # `retry` does it
    configuration.connection_pool_maxsize = 64
    return client.ApiClient(configuration), settings.namespace or namespace or "default"


def role_rules(missing: list[Permission]) -> str:
    """The rules that a Role needs, to be copied."""
    rule = '  - {{apiGroups: ["{0.group}"], resources: ["{0.resource}"], verbs: ["{0.verb}"]}}'
    lines = "\n".join(map(rule.format, missing))
    return f"Bind a Role with these rules in the jobs' namespace to the user who starts runs:\nrules:\n{lines}"


def _rules_for(message: str) -> str:
    """The rule that the message of a 403 is about, or all rules."""
    found = _LACKS_PERMISSION.search(message)
    missing = [p for p in REQUIRED_PERMISSIONS if found and p == (found[3], found[2], found[1])]
    return role_rules(missing or list(REQUIRED_PERMISSIONS))


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


def _retry_after(error: Any) -> float | None:
    """Seconds of the Retry-After header; None if it is absent or malformed."""
    with suppress(InvalidHeader, ValueError, OverflowError):
        return urllib3.Retry().parse_retry_after((error.headers or {}).get("Retry-After", ""))
    return None
