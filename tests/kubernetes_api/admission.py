"""What admission plugins say of a new pod: its service account, its priority class, and refusals of a test."""

from tests.kubernetes_api.errors import forbidden
from tests.kubernetes_api.objects import PODS, PRIORITY_CLASSES, SERVICE_ACCOUNTS, Object, key_of
from tests.kubernetes_api.storage import Storage

_BUILT_IN = ("system-cluster-critical", "system-node-critical")


def check_pod(storage: Storage, pod: Object) -> None:
    """403 as plugin/pkg/admission/{serviceaccount,priority} and quotas say it."""
    namespace, name = key_of(pod)
    account = pod["spec"].get("serviceAccountName") or "default"
    if account != "default" and storage.find(SERVICE_ACCOUNTS, namespace, account) is None:
        why = f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found'
        raise forbidden(PODS, name, why)
    priority = pod["spec"].get("priorityClassName")
    if priority and priority not in _BUILT_IN and storage.find(PRIORITY_CLASSES, "", priority) is None:
        raise forbidden(PODS, name, f"no PriorityClass with name {priority} was found")
    if storage.refused_pods is not None:
        raise forbidden(PODS, name, storage.refused_pods)
