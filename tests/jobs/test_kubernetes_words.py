"""States of pods that the test cluster cannot bring about, in words."""

from typing import Any

from progdistill.jobs.kubernetes_words import Ended, first_failure


def ended(host: int, exit_code: int, at: int, disruption: str | None = None) -> Ended:
    return Ended(f"pod-{host}", host, exit_code, "Error", f"2026-01-01T00:00:{at:02d}Z", disruption)


def test_the_interesting_host_failed_first_and_by_itself() -> None:
    lost, culprit, later = ended(0, 75, 1), ended(1, 1, 2), ended(2, 1, 3)
    stopped, evicted = ended(3, 143, 0), ended(4, 137, 0, "preempted")
    assert first_failure([later, lost, culprit, stopped, evicted]) == culprit
    assert first_failure([lost, stopped, evicted]) is None


def test_a_pod_without_a_node_names_what_no_node_has() -> None:
    from progdistill.jobs import kubernetes_words

    message = "0/3 nodes are available: 1 Insufficient cpu, 2 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    pod: dict[str, Any] = {"metadata": {}, "status": {"phase": "Pending", "conditions": [condition]}}
    said = kubernetes_words._pod_waits(pod)
    assert said is not None and "no node has enough cpu and nvidia.com/gpu free" in said
