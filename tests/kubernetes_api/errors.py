"""Errors in the format of the API server: a `Status` object with a reason, a code and details.

Wording: k8s.io/apimachinery/pkg/api/errors and k8s.io/apiserver/pkg/endpoints/handlers/responsewriters.
"""

from typing import Any

from tests.kubernetes_api.objects import Resource


class ApiError(Exception):
    """A request is answered with this Status."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: dict[str, Any] | None = None,
        retry_after: int | str | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message
        self.details, self.retry_after = details, retry_after

    def status(self) -> dict[str, Any]:
        """The body of the response."""
        body: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        details = {} if self.details is None else {"details": self.details}
        return body | {"message": self.message, "reason": self.reason, "code": self.code} | details


def _about(resource: Resource, name: str) -> dict[str, Any]:
    about = {"name": name, "group": resource.group, "kind": resource.plural}
    return {key: value for key, value in about.items() if value}


def not_found(resource: Resource, name: str) -> ApiError:
    """404: no such object."""
    return ApiError(404, "NotFound", f'{resource.qualified} "{name}" not found', _about(resource, name))


def no_such_path() -> ApiError:
    """404: no such resource."""
    return ApiError(404, "NotFound", "the server could not find the requested resource", {})


def not_implemented(what: str) -> ApiError:
    """501: the real server does this, and this one says that it does not."""
    return ApiError(501, "NotImplemented", f"tests.kubernetes_api does not implement {what}")


def already_exists(resource: Resource, name: str, is_terminating: bool = False) -> ApiError:
    """409: the name is taken, perhaps by an object that is being deleted."""
    prefix = "object is being deleted: " if is_terminating else ""
    message = f'{prefix}{resource.qualified} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, _about(resource, name))


def conflict(resource: Resource, name: str, why: str) -> ApiError:
    """409: a precondition fails."""
    message = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}'
    return ApiError(409, "Conflict", message, _about(resource, name))


def bad_request(message: str) -> ApiError:
    """400: the request makes no sense."""
    return ApiError(400, "BadRequest", message)


def forbidden(resource: Resource, name: str, why: str) -> ApiError:
    """403: understood and refused."""
    subject = f'{resource.qualified} "{name}"' if name else resource.qualified
    return ApiError(403, "Forbidden", f"{subject} is forbidden: {why}", _about(resource, name))


def expired(requested: int, oldest: int) -> ApiError:
    """410: the history no longer reaches back to this resourceVersion."""
    return ApiError(410, "Expired", f"too old resource version: {requested} ({oldest})")


def invalid(resource: Resource, name: str, causes: list[tuple[str, str, str]]) -> ApiError:
    """422: the manifest is broken. A cause is (reason, message, field)."""
    listed = [f"{field}: {message}" for _, message, field in causes]
    joined = listed[0] if len(listed) == 1 else f"[{', '.join(listed)}]"
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    details = _about(resource, name) | {
        "kind": resource.kind,
        "causes": [{"reason": reason, "message": text, "field": field} for reason, text, field in causes],
    }
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {joined}', details)


_REASONS = {
    401: ("Unauthorized", "Unauthorized"),
    403: ("Forbidden", "forbidden: an admission webhook denied the request"),
    409: ("AlreadyExists", "object already exists"),
    410: ("Expired", "The provided continue parameter is too old to display a consistent list result."),
    429: ("TooManyRequests", "the server has received too many requests and has asked us to try again later"),
    500: ("InternalError", "Internal error occurred: etcdserver: request timed out"),
    503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
    504: ("Timeout", "Timeout: request did not complete within the allotted timeout"),
}


def of_code(code: int, retry_after: int | str | None = None) -> ApiError:
    """A failure that has nothing to do with the request itself."""
    return ApiError(code, *_REASONS[code], retry_after=retry_after)
