"""States of pods that the test cluster cannot bring about, in words."""

from types import SimpleNamespace
from typing import Any

import pytest

from progdistill.config.cluster import StepResources
from progdistill.jobs.kubernetes.diagnostics import Ended, ended, failure, first_failure, lost, restart


def an_end(host: int, exit_code: int, at: int, disruption: str | None = None) -> Ended:
    return Ended(f"pod-{host}", host, exit_code, "Error", f"2026-01-01T00:00:{at:02d}Z", disruption)


def test_the_interesting_host_failed_first_and_by_itself() -> None:
    lost, culprit, later = an_end(0, 75, 1), an_end(1, 1, 2), an_end(2, 1, 3)
    stopped, evicted = an_end(3, 143, 0), an_end(4, 137, 0, "preempted")
    assert first_failure([later, lost, culprit, stopped, evicted]) == culprit
    assert first_failure([lost, stopped, evicted]) is None


def test_a_pod_without_a_node_names_what_no_node_has() -> None:
    from progdistill.jobs.kubernetes import diagnostics as kubernetes_words

    message = "0/3 nodes are available: 1 Insufficient cpu, 2 Insufficient nvidia.com/gpu."
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    pod: dict[str, Any] = {"metadata": {}, "status": {"phase": "Pending", "conditions": [condition]}}
    said = kubernetes_words._pod_waits(pod)
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
def test_a_pod_evicted_for_its_own_use_of_disk_is_told_which_limit_to_raise(
    state: dict[str, Any], message: str, advice: str
) -> None:
    status = {
        "phase": "Failed",
        "reason": "Evicted",
        "message": message,
        "containerStatuses": [{"state": state}],
    }
    end = ended({"metadata": {"name": "pod-0"}, "status": status})
    assert end is not None and end.is_its_own
    said = restart(end)
    assert said is not None and message.strip(" .") in said and "if retries are left" in said
    submission: Any = SimpleNamespace(
        hosts=1,
        setting="cluster.train",
        resources=StepResources(),
        cluster=SimpleNamespace(max_gang_restarts=5),
        request=SimpleNamespace(spec=SimpleNamespace(label="base model")),
    )
    told = str(failure(submission, {"status": {}}, [end], {}, "WHERE"))
    assert advice in told and "memory_gib=16" not in told


def test_a_pod_evicted_for_the_sake_of_its_node_is_taken_away() -> None:
    message = "The node was low on resource: ephemeral-storage. "
    disruption = {"type": "DisruptionTarget", "status": "True", "message": message}
    status = {"phase": "Failed", "reason": "Evicted", "message": message, "conditions": [disruption]}
    end = ended({"metadata": {"name": "pod-0"}, "status": status})
    assert end is not None and not end.is_its_own and "at no cost of a retry" in str(restart(end))


def test_a_pod_evicted_again_and_again_before_it_gets_anywhere_is_told_which_limit_to_raise() -> None:
    message = "Pod ephemeral local storage usage exceeds the total limit of containers 20Gi. "
    end = an_end(1, 130, 1)._replace(reason="Evicted", message=message)
    submission: Any = SimpleNamespace(
        setting="cluster.train",
        resources=StepResources(),
        request=SimpleNamespace(spec=SimpleNamespace(label="base model")),
    )
    told = str(lost(submission, 5, end, [], "WHERE"))
    assert "5 times in a row host 1 was evicted (Pod ephemeral" in told and "disk_gib=40" in told
