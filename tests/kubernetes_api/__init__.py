"""A small Kubernetes API server for tests, with a Job controller and nodes that run real processes.

It speaks HTTP to the real `kubernetes` client and behaves as Kubernetes 1.33 does, as far as the launcher
needs it. What it leaves out it answers with 404 or 501, never with a pretended success.

    objects, errors, storage      objects, versions, garbage collection
    api, validation, admission    what a request asks for, and whether it is allowed
    server, faults                HTTP, logs, and faults that a test injects
    jobs, scheduler               the Job controller, and where pods go
    kubelet, container, environment   how pods run: as real processes of this machine
    control_plane, cluster        everything together, and what a test can do to it

Other than in a cluster: times between retries are short (`backoff_seconds`); all pods share the loopback
address, so two jobs that use one port collide; the containers see the test's file system.
"""

from tests.kubernetes_api.cluster import Cluster, running_cluster
from tests.kubernetes_api.scheduler import Node
from tests.kubernetes_api.server import Request

__all__ = ["Cluster", "Node", "Request", "running_cluster"]
