"""RBAC: what the one token of this server may do (Kubernetes documentation, "Using RBAC Authorization")."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

from tests.kubernetes_api.errors import ApiError, forbidden
from tests.kubernetes_api.resources import Resource

USER = "system:serviceaccount:default:progdistill"


@dataclass
class Access:
    """`rules` maps `jobs.batch` or `pods/log` to verbs; None allows everything."""

    rules: Mapping[str, Set[str]] | None = None

    def allows(self, verb: str, resource: str, group: str, subresource: str = "") -> bool:
        """Whether a request may go on."""
        if self.rules is None:
            return True
        asked = resource + (f".{group}" if group else "") + (f"/{subresource}" if subresource else "")
        other = resource + (f"/{subresource}" if subresource else "") + (f".{group}" if group else "")
        granted = self.rules.get(asked) or self.rules.get(other) or set()
        return verb in granted or "*" in granted

    def check(self, verb: str, resource: Resource, subresource: str, namespace: str, name: str) -> None:
        """403 with the wording of the real authorizer."""
        if not self.allows(verb, resource.plural, resource.group, subresource):
            raise self._denied(verb, resource, subresource, namespace, name)

    @staticmethod
    def _denied(verb: str, resource: Resource, subresource: str, namespace: str, name: str) -> ApiError:
        what = resource.plural + (f"/{subresource}" if subresource else "")
        where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
        why = f'User "{USER}" cannot {verb} resource "{what}" in API group "{resource.group}"{where}'
        return forbidden(resource, name, why)
