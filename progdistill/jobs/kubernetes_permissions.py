"""What the driver does to a cluster: the one list that RBAC, the check before a run and messages go by."""

from typing import Final, NamedTuple


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
