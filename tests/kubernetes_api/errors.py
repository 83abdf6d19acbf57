"""Failures as the API server words them: a `Status` object with a reason, a code and details.

Wording: k8s.io/apimachinery/pkg/api/errors and k8s.io/apiserver/pkg/endpoints/handlers/responsewriters.
"""

from typing import Any

from tests.kubernetes_api.resources import Resource


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
        if retry_after is not None:
            self.details = {**(details or {}), "retryAfterSeconds": retry_after}

    def status(self) -> dict[str, Any]:
        """The body of the answer."""
        body: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        body |= {"message": self.message, "reason": self.reason}
        if self.details is not None:
            body["details"] = self.details
        return body | {"code": self.code}


def _about(resource: Resource, name: str) -> dict[str, Any]:
    about = {"name": name, "group": resource.group, "kind": resource.plural}
    return {key: value for key, value in about.items() if value}


def not_found(resource: Resource, name: str) -> ApiError:
    """404: no such object."""
    return ApiError(404, "NotFound", f'{resource.qualified} "{name}" not found', _about(resource, name))


def no_such_path() -> ApiError:
    """404: no such resource."""
    return ApiError(404, "NotFound", "the server could not find the requested resource", {})


def omissions(what: str) -> ApiError:
    """501: the real server does this, this one does not, and says so."""
    return ApiError(501, "NotImplemented", f"tests.kubernetes_api does not implement {what}")


def already_exists(resource: Resource, name: str) -> ApiError:
    """409: the name is taken."""
    return ApiError(
        409, "AlreadyExists", f'{resource.qualified} "{name}" already exists', _about(resource, name)
    )


def being_deleted(resource: Resource, name: str) -> ApiError:
    """409: the name is taken by an object that is on its way out."""
    message = f'object is being deleted: {resource.qualified} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, _about(resource, name))


def conflict(resource: Resource, name: str, why: str = "") -> ApiError:
    """409: written against an old resourceVersion, or a precondition fails."""
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}'
    return ApiError(409, "Conflict", message, _about(resource, name))


def bad_request(message: str) -> ApiError:
    """400: the request makes no sense."""
    return ApiError(400, "BadRequest", message)


def forbidden(resource: Resource, name: str, why: str) -> ApiError:
    """403: understood and refused."""
    subject = f'{resource.qualified} "{name}"' if name else resource.qualified
    return ApiError(403, "Forbidden", f"{subject} is forbidden: {why}", _about(resource, name))


def unauthorized() -> ApiError:
    """401: no token, or a wrong one."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def expired(asked: int, oldest: int) -> ApiError:
    """410: the history no longer reaches back to this resourceVersion."""
    return ApiError(410, "Expired", f"too old resource version: {asked} ({oldest})")


def invalid(resource: Resource, name: str, causes: list[tuple[str, str, str]]) -> ApiError:
    """422: the manifest is broken. A cause is (reason, message, field)."""
    listed = [f"{field}: {message}" for _, message, field in causes]
    joined = listed[0] if len(listed) == 1 else f"[{', '.join(listed)}]"
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    details = _about(resource, name) | {
        "kind": resource.kind,
        "causes": [
            {"reason": reason, "message": message, "field": field} for reason, message, field in causes
        ],
    }
    return ApiError(422, "Invalid", f'{kind} "{name}" is invalid: {joined}', details)


_PLAIN = {
    400: ("BadRequest", "the server rejected our request for an unknown reason"),
    401: ("Unauthorized", "Unauthorized"),
    403: ("Forbidden", "forbidden: an admission webhook denied the request"),
    404: ("NotFound", "the server could not find the requested resource"),
    409: (
        "Conflict",
        "Operation cannot be fulfilled: the object has been modified; please apply your changes to"
        " the latest version and try again",
    ),
    410: ("Expired", "The provided continue parameter is too old to display a consistent list result."),
    429: ("TooManyRequests", "the server has received too many requests and has asked us to try again later"),
    500: ("InternalError", "Internal error occurred: etcdserver: request timed out"),
    503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
    504: ("Timeout", "Timeout: request did not complete within the allotted timeout"),
}


def of_code(code: int, retry_after: int | str | None = None, method: str = "GET") -> ApiError:
    """A failure that has nothing to do with the request itself."""
    reason, message = _PLAIN[code]
    if (method, code) == ("POST", 409):  # the one conflict that a creation can meet
        reason, message = "AlreadyExists", "object already exists"
    return ApiError(code, reason, message, retry_after=retry_after)
