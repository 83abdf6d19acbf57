"""Messages for pod states that the test cluster cannot produce."""

from types import SimpleNamespace
from typing import Any

import pytest

from progdistill.config.cluster import StepResources
from progdistill.jobs.kubernetes.diagnostics import (
    PodExit,
    eviction_failure,
    first_failure,
    job_failure,
    pod_exit,
    restart_message,
    waiting_reason,
)


def an_exit(host: int, exit_code: int, at: int, disruption: str | None = None) -> PodExit:
    return PodExit(f"pod-{host}", host, exit_code, "Error", f"2026-01-01T00:00:{at:02d}Z", disruption)


def test_the_host_to_report_failed_first_and_by_itself() -> None:
    lost, culprit, later = an_exit(0, 75, 1), an_exit(1, 1, 2), an_exit(2, 1, 3)
    stopped, evicted = an_exit(3, 143, 0), an_exit(4, 137, 0, "preempted")
    assert first_failure([later, lost, culprit, stopped, evicted]) == culprit
    assert first_failure([lost, stopped, evicted]) is None


def test_a_pod_without_a_node_names_what_no_node_has() -> None:
    message = "0/3 nodes are available: 1 Insufficient cpu, 2 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    pod: dict[str, Any] = {"metadata": {}, "status": {"phase": "Pending", "conditions": [condition]}}
    said = waiting_reason(pod)
    assert said is not None and "no node has enough cpu and nvidia.com/gpu free" in said


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        # pkg/kubelet/eviction/helpers.go; none of these sets DisruptionTarget.
        (
            "Pod ephemeral local storage usage exceeds the total limit of containers 20Gi. ",
            "its limit is 20 GiB, raise it with --set cluster.train.disk_gib=40.",
        ),
        (
            'Container worker exceeded its local ephemeral storage limit "20Gi". ',
            "its limit is 20 GiB, raise it with --set cluster.train.disk_gib=40.",
        ),
        (
            'Usage of EmptyDir volume "shared-memory" exceeds the limit "1Gi". ',
            "its limit is 1 GiB, raise it with --set cluster.train.shared_memory_gib=2.",
        ),
    ],
)
@pytest.mark.parametrize("state", [{"terminated": {"exitCode": 137}}, {"terminated": {"exitCode": 130}}, {}])
def test_an_eviction_for_its_own_use_of_disk_names_the_limit_to_raise(
    state: dict[str, Any], message: str, advice: str
) -> None:
    status = {
        "phase": "Failed",
        "reason": "Evicted",
        "message": message,
        "containerStatuses": [{"name": "worker", "state": state}],
    }
    end = pod_exit({"metadata": {"name": "pod-0"}, "status": status})
    assert end is not None and end.is_own_failure and end.is_own_eviction
    said = restart_message(end)
    assert said is not None and message.strip(" .") in said and "if retries are left" in said
    submission: Any = SimpleNamespace(
        hosts=1,
        setting="cluster.train",
        resources=StepResources(),
        cluster=SimpleNamespace(backoff_limit=5),
        request=SimpleNamespace(spec=SimpleNamespace(label="base model")),
    )
    error = str(job_failure(submission, {"status": {}}, [end], {}, "WHERE"))
    assert advice in error and "memory_gib=16" not in error


def test_an_eviction_under_node_pressure_is_a_disruption() -> None:
    message = "The node was low on resource: ephemeral-storage. "
    disruption = {"type": "DisruptionTarget", "status": "True", "message": message}
    status = {"phase": "Failed", "reason": "Evicted", "message": message, "conditions": [disruption]}
    end = pod_exit({"metadata": {"name": "pod-0"}, "status": status})
    assert end is not None and not end.is_own_failure
    assert "at no cost of a retry" in str(restart_message(end))


def test_repeated_evictions_name_the_limit_to_raise() -> None:
    message = "Pod ephemeral local storage usage exceeds the total limit of containers 20Gi. "
    end = an_exit(1, 130, 1)._replace(reason="Evicted", message=message)
    submission: Any = SimpleNamespace(
        setting="cluster.train",
        resources=StepResources(),
        request=SimpleNamespace(spec=SimpleNamespace(label="base model")),
    )
    error = str(eviction_failure(submission, [end] * 6, "WHERE"))
    assert "evicted 6 times; host 1 was evicted (Pod ephemeral" in error and "disk_gib=40" in error


def test_the_state_of_an_injected_container_is_not_the_workers() -> None:
    sidecar = {"name": "istio-proxy", "state": {"terminated": {"exitCode": 2}}}
    worker = {"name": "worker", "state": {"running": {}}}
    pod: dict[str, Any] = {"metadata": {"name": "pod-0"}, "status": {"containerStatuses": [sidecar, worker]}}
    assert pod_exit(pod) is None
