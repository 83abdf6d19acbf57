"""A small Kubernetes API server for tests, with a Job controller and nodes that run real processes.

It speaks HTTP to the real `kubernetes` client. What it leaves out it answers with 404 or 501, never with a
pretended success. `python -m tests.kubernetes_api --folder DIR` runs one in the foreground.
"""

from tests.kubernetes_api.cluster import Cluster, running_cluster
from tests.kubernetes_api.http_server import Request
from tests.kubernetes_api.nodes import Node

__all__ = ["Cluster", "Node", "Request", "running_cluster"]
