"""The environment, exit, log and scheduling of a container.

Against "Pod Lifecycle", "Define Environment Variables" and the API reference of Pod v1.
"""

import base64
import datetime
import os
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes_api import Cluster, Node, running_cluster
from tests.kubernetes_api.helpers import (
    Client,
    client_of,
    ended,
    in_phase,
    job,
    log_of,
    pod,
    refusal,
    running,
    service,
    state,
)
from tests.kubernetes_api.objects import condition

_SECRET = {"metadata": {"name": "keys"}, "data": {"TOKEN": base64.b64encode(b"s3cret").decode()}}


def test_the_environment_comes_from_all_its_sources(cluster: Cluster, client: Client) -> None:
    """Values, field references and Secrets, which are waited for; $(NAME) in values and arguments."""
    env = [
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "BOTH", "value": "$(NAME)/$(TOKEN)/$(NOBODY)/$$(NAME)"},
    ]
    secret = [{"secretRef": {"name": "keys"}}]
    container = {"command": ["sh", "-c"], "args": ['echo "$BOTH $0"', "$(NAME)"], "env": env, "envFrom": secret}
    client.core.create_namespaced_pod("default", pod("x", "", container=container))
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "keys" not found'}
    cluster.wait_for(lambda: state(cluster).get("waiting") == waiting)
    client.core.create_namespaced_secret("default", _SECRET)
    ended(cluster)
    assert log_of(client, "x") == "x/s3cret/$(NOBODY)/$(NAME) x\n"


def test_a_pod_works_in_an_empty_folder_of_its_own(cluster: Cluster, client: Client) -> None:
    """An emptyDir volume is a folder too, whatever its mount path."""
    mounts = [{"name": "scratch", "mountPath": "/scratch"}, {"name": "memory", "mountPath": "/dev/shm"}]
    volumes = [{"name": "scratch", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}]
    env = [{"name": "PLACE", "value": "/scratch/deep:/scratchy:/dev/shm"}]
    command = "ls; mkdir /scratch/deep && ls -d ${PLACE%%:*} && echo $PLACE $TMPDIR; pwd"
    container = {"volumeMounts": mounts, "env": env}
    client.core.create_namespaced_pod("default", pod("x", command, container=container, volumes=volumes))
    ended(cluster)
    *listing, _, places, folder = log_of(client, "x").splitlines()
    assert listing == ["volumes"]
    assert places == f"{folder}/volumes/scratch/deep:/scratchy:/dev/shm {folder}"


def test_names_of_sibling_pods_resolve_when_their_service_is_there(cluster: Cluster, client: Client) -> None:
    """ "DNS for Services and Pods", "Pod's hostname and subdomain fields"."""
    env = [{"name": "HOSTS", "value": "x-0.mesh:29500 x-0.mesh.default.svc.cluster.local"}]
    details = {"subdomain": "mesh", "container": {"env": env}}

    def create(name: str) -> str:
        client.batch.create_namespaced_job("default", job(name, "echo $HOSTS", pod_spec=dict(details)))

        def done() -> Any:
            pods = in_phase(cluster, "Succeeded")
            return [item for item in pods if item["metadata"]["name"].startswith(f"{name}-0")]

        return log_of(client, cluster.wait_for(done)[0]["metadata"]["name"])

    assert create("before") == "x-0.mesh:29500 x-0.mesh.default.svc.cluster.local\n"
    client.core.create_namespaced_service("default", service("mesh"))
    assert create("x") == "127.0.0.1:29500 127.0.0.1\n"


@pytest.mark.parametrize(
    ("command", "code", "reason", "phase"),
    [
        ("exit 0", 0, "Completed", "Succeeded"),
        ("exit 3", 3, "Error", "Failed"),
        ("kill -9 $$$$", 137, "Error", "Failed"),
        ("kill -SEGV $$$$", 139, "Error", "Failed"),
    ],
)
def test_a_container_ends_with_code_and_reason(
    cluster: Cluster, client: Client, command: str, code: int, reason: str, phase: str
) -> None:
    # $$ is a dollar sign in a manifest, so a shell's own process id is $$$$.
    client.core.create_namespaced_pod("default", pod("x", command))
    terminated = ended(cluster)
    assert (terminated["exitCode"], terminated["reason"]) == (code, reason)
    assert in_phase(cluster, phase)


def test_a_command_that_is_missing_is_a_start_error(cluster: Cluster, client: Client) -> None:
    client.core.create_namespaced_pod("default", pod("x", "", container={"command": ["no-such-program"]}))
    terminated = ended(cluster)
    assert (terminated["exitCode"], terminated["reason"]) == (128, "StartError")
    assert 'exec: "no-such-program": executable file not found in $PATH' in terminated["message"]


def test_a_container_out_of_memory_is_oomkilled(cluster: Cluster, client: Client) -> None:
    client.core.create_namespaced_pod("default", pod("x", "sleep 60"))
    cluster.oom_kill(running(cluster))
    terminated = ended(cluster)
    assert (terminated["exitCode"], terminated["reason"]) == (137, "OOMKilled")


def test_a_pod_that_exceeds_its_disk_is_evicted_without_a_disruption(cluster: Cluster, client: Client) -> None:
    """pkg/kubelet/eviction: SIGTERM and one second, then SIGKILL."""
    client.core.create_namespaced_pod("default", pod("x", "trap '' TERM; echo up; while :; do sleep 0.05; done"))
    found = running(cluster)
    cluster.wait_for(lambda: log_of(client, "x") == "up\n")  # before that SIGTERM would end it
    cluster.exceed_disk(found)
    assert ended(cluster)["exitCode"] == 137
    [evicted] = cluster.objects("pods")
    assert evicted["status"]["reason"] == "Evicted" and "ephemeral" in evicted["status"]["message"]
    assert condition(evicted, "DisruptionTarget") == {}


def test_a_deleted_pod_gets_sigterm_and_its_grace_period(cluster: Cluster, client: Client, tmp_path: Path) -> None:
    """ "Termination of Pods": the object stays, with a deletionTimestamp, until the process has ended."""
    command = f"trap 'echo saved > {tmp_path}/saved; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    client.core.create_namespaced_pod("default", pod("x", command))
    running(cluster)
    cluster.wait_for(lambda: log_of(client, "x") == "up\n")
    deleting = client.core.delete_namespaced_pod("x", "default")
    assert deleting.metadata.deletion_grace_period_seconds == 60 and deleting.metadata.deletion_timestamp
    cluster.wait_for(lambda: not cluster.objects("pods"))
    assert (tmp_path / "saved").read_text() == "saved\n"


def test_children_end_with_their_container(cluster: Cluster, client: Client, tmp_path: Path) -> None:
    """Also those that have left its process group: in a cluster they share its process namespace."""
    command = f"setsid sleep 60 & echo $! > {tmp_path}/pid; exit 0"
    client.core.create_namespaced_pod("default", pod("x", command))
    ended(cluster)
    child = int((tmp_path / "pid").read_text())

    def is_gone() -> bool:
        try:
            with open(f"/proc/{child}/stat") as status:
                return status.read().split()[2] == "Z"
        except FileNotFoundError:
            return True

    cluster.wait_for(is_gone)


def test_an_image_that_cannot_be_pulled_backs_off(cluster: Cluster, client: Client) -> None:
    """ "Images", "ImagePullBackOff"; there is no log before the container runs."""
    cluster.refuse_image("trainer:1")
    client.core.create_namespaced_pod("default", pod("x", "true"))
    cluster.wait_for(lambda: state(cluster).get("waiting", {}).get("reason") == "ImagePullBackOff")
    assert state(cluster)["waiting"]["message"].startswith('Back-off pulling image "trainer:1"')
    assert in_phase(cluster, "Pending")
    events = client.core.list_namespaced_event("default", field_selector="involvedObject.name=x").items
    assert any(event.message.startswith('Failed to pull image "trainer:1"') for event in events)
    status = refusal(lambda: client.core.read_namespaced_pod_log("x", "default"))
    assert (status["code"], status["reason"]) == (400, "BadRequest")
    assert status["message"] == ('container "main" in pod "x" is waiting to start: trying and failing to pull image')
    cluster.allow_image("trainer:1")
    assert ended(cluster)["exitCode"] == 0


def test_a_followed_log_sends_lines_as_they_come_and_ends_with_the_container(
    cluster: Cluster, client: Client, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "go")
    command = f"echo first; cat {tmp_path}/go; echo error >&2; printf last"
    client.core.create_namespaced_pod("default", pod("x", command))
    running(cluster)
    lines = client.core.read_namespaced_pod_log("x", "default", follow=True, _preload_content=False).stream()
    assert next(lines) == b"first\n"
    (tmp_path / "go").write_text("middle\n")
    assert b"".join(lines) == b"middle\nerror\nlast" and log_of(client, "x").startswith("first\nmiddle\n")
    status = refusal(lambda: client.core.read_namespaced_pod_log("x", "default", container="side"))
    assert status["message"] == "container side is not valid for pod x"


def test_since_and_timestamps_choose_and_date_the_lines(cluster: Cluster, client: Client, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    client.core.create_namespaced_pod("default", pod("x", f"echo 1; echo 2; cat {tmp_path}/go; echo 3"))
    running(cluster)
    cluster.wait_for(lambda: log_of(client, "x") == "1\n2\n")
    between = datetime.datetime.now(datetime.UTC)
    (tmp_path / "go").write_text("")
    ended(cluster)
    dated = [line.split(" ") for line in log_of(client, "x", timestamps=True).splitlines()]
    assert [text for _, text in dated] == ["1", "2", "3"]
    times = [datetime.datetime.fromisoformat(when) for when, _ in dated]
    assert times[0] <= times[1] <= between <= times[2]

    def since(when: str) -> bytes:
        # The generated client has no since_time, so a caller adds it to the query.
        path = f"/api/v1/namespaces/default/pods/x/log?sinceTime={when}"
        options = {"auth_settings": ["BearerToken"], "_preload_content": False, "_return_http_data_only": True}
        return bytes(client.core.api_client.call_api(path, "GET", **options).data)

    later = (times[2] + datetime.timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert since(later) == b""
    assert since(dated[2][0]).endswith(b"3\n")  # fractions of a second are dropped
    assert since(times[0].strftime("%Y-%m-%dT%H:%M:%SZ")) == b"1\n2\n3\n"


def test_a_pod_that_fits_nowhere_stays_pending_and_says_why(cluster: Cluster, client: Client) -> None:
    container = {"resources": {"limits": {"nvidia.com/gpu": 8}}}
    client.core.create_namespaced_pod("default", pod("x", "true", container=container))
    found = cluster.wait_for(lambda: condition(cluster.objects("pods")[0], "PodScheduled"))
    assert (found["status"], found["reason"]) == ("False", "Unschedulable")
    assert found["message"] == (
        "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
        " preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    )
    [event] = cluster.wait_for(lambda: cluster.objects("events"))
    assert (event["reason"], event["message"]) == ("FailedScheduling", found["message"])
    assert in_phase(cluster, "Pending")


def test_what_is_taken_is_taken_until_its_pod_has_ended(tmp_path: Path) -> None:
    container = {"resources": {"limits": {"nvidia.com/gpu": 1}}}
    with running_cluster(tmp_path, nodes=[Node("gpu-1", gpu=1)]) as cluster:
        client = client_of(cluster)
        client.core.create_namespaced_pod("default", pod("first", "exec sleep 60", container=dict(container)))
        running(cluster)
        client.core.create_namespaced_pod("default", pod("second", "true", container=dict(container)))
        found = cluster.wait_for(lambda: condition(cluster.objects("pods")[1], "PodScheduled"))
        assert "1 No preemption victims found for incoming pod." in found["message"]
        client.core.delete_namespaced_pod("first", "default")
        cluster.wait_for(lambda: in_phase(cluster, "Succeeded"))
