"""A small Kubernetes API server for tests, with a Job controller and nodes that run real processes.

It speaks HTTP to the real `kubernetes` client and behaves as Kubernetes 1.33 does. What it leaves out it
answers with 404 or 501, never with a pretended success. `python -m tests.kubernetes_api --folder DIR` runs
one in the foreground.

    storage, ownership, watches, selectors       objects, versions, garbage collection, what a watch sees
    routes, api, patches, validation, defaults   what a request asks for, and whether it may
    http_server, logs, access, faults, errors    how it is answered
    job_controller, job_pods, job_failures       Jobs
    scheduler, nodes, quantity                   where pods go
    kubelet, container, environment, dns, ...    how they run: as real processes of this machine
    control_plane, cluster                       everything together, and what a test may do to it

Other than in a cluster: times between retries are short (`backoff_seconds`); all pods share the loopback
address, so two jobs that meet at one port collide; names of pods and mount paths are replaced where a
container gets them (dns.py, volumes.py), not resolved; the containers see the test's file system.
"""

from tests.kubernetes_api.cluster import Cluster, running_cluster
from tests.kubernetes_api.http_server import Request
from tests.kubernetes_api.nodes import Node

__all__ = ["Cluster", "Node", "Request", "running_cluster"]
