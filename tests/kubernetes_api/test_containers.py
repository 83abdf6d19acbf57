"""What a container gets and how it ends, held against "Pod Lifecycle" and "Define Environment Variables"."""

import base64
from typing import Any

import pytest

from tests.kubernetes_api import Cluster
from tests.kubernetes_api.clients import Client, log_of
from tests.kubernetes_api.manifests import job, pod
from tests.kubernetes_api.observing import ended, running, state


def test_the_environment_comes_from_all_its_sources(cluster: Cluster, client: Client) -> None:
    """Values, field references, keys of secrets and config maps, and whole ones; $(NAME) in both."""
    secret = {"metadata": {"name": "keys"}, "data": {"token": base64.b64encode(b"s3cret").decode()}}
    client.core.create_namespaced_secret("default", secret)
    client.core.create_namespaced_config_map("default", {"metadata": {"name": "all"}, "data": {"SIZE": "8"}})
    env = [
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}},
        {"name": "BOTH", "value": "$(NAME)/$(TOKEN)/$(NOBODY)/$$(NAME)"},
    ]
    container = {
        "command": ["sh", "-c"],
        "args": ['echo "$BOTH $SIZE $(SIZE) $0"', "$(NAME)"],
        "env": env,
        "envFrom": [{"configMapRef": {"name": "all"}}],
    }
    client.core.create_namespaced_pod("default", pod("x", "", container=container))
    ended(cluster)
    assert log_of(client, "x") == "x/s3cret/$(NOBODY)/$(NAME) 8 8 x\n"


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


def test_a_missing_secret_is_waited_for(cluster: Cluster, client: Client) -> None:
    """CreateContainerConfigError, and the container starts when the secret is there."""
    env = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}}]
    client.core.create_namespaced_pod("default", pod("x", "echo $TOKEN", container={"env": env}))
    waiting = {"reason": "CreateContainerConfigError", "message": 'secret "keys" not found'}
    cluster.wait_for(lambda: state(cluster).get("waiting") == waiting)
    client.core.create_namespaced_secret("default", {"metadata": {"name": "keys"}, "data": {"token": "YQ=="}})
    ended(cluster)
    assert log_of(client, "x") == "a\n"


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
    assert client.core.read_namespaced_pod("x", "default").status.phase == phase


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


def test_a_deleted_pod_gets_sigterm_and_its_grace_period(
    cluster: Cluster, client: Client, tmp_path: Any
) -> None:
    """ "Termination of Pods": the object stays, with a deletionTimestamp, until the process has ended."""
    command = f"trap 'echo saved > {tmp_path}/saved; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    client.core.create_namespaced_pod("default", pod("x", command))
    running(cluster)
    cluster.wait_for(lambda: log_of(client, "x") == "up\n")
    deleting = client.core.delete_namespaced_pod("x", "default")
    assert deleting.metadata.deletion_grace_period_seconds == 60 and deleting.metadata.deletion_timestamp
    cluster.wait_for(lambda: not cluster.objects("pods"))
    assert (tmp_path / "saved").read_text() == "saved\n"


def test_after_the_grace_period_comes_sigkill(cluster: Cluster, client: Client) -> None:
    manifest = pod(
        "x", "trap '' TERM; echo up; while :; do sleep 0.05; done", terminationGracePeriodSeconds=1
    )
    client.core.create_namespaced_pod("default", manifest)
    running(cluster)
    cluster.wait_for(lambda: log_of(client, "x") == "up\n")
    client.core.delete_namespaced_pod("x", "default")
    cluster.wait_for(lambda: not cluster.objects("pods"))


def test_children_end_with_their_container(cluster: Cluster, client: Client, tmp_path: Any) -> None:
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
    """ "Images", "ImagePullBackOff"."""
    cluster.refuse_image("trainer:1")
    client.core.create_namespaced_pod("default", pod("x", "true"))
    cluster.wait_for(lambda: state(cluster).get("waiting", {}).get("reason") == "ImagePullBackOff")
    assert state(cluster)["waiting"]["message"].startswith('Back-off pulling image "trainer:1"')
    [item] = cluster.objects("pods")
    assert item["status"]["phase"] == "Pending"
    events = client.core.list_namespaced_event("default", field_selector="involvedObject.name=x").items
    told = [(event.type, event.reason, event.message) for event in events]
    assert ("Warning", "Failed", "Error: ErrImagePull") in told
    assert ("Normal", "BackOff", 'Back-off pulling image "trainer:1"') in told
    assert any(m.startswith('Failed to pull image "trainer:1"') for _, r, m in told if r == "Failed")
    cluster.allow_image("trainer:1")
    assert ended(cluster)["exitCode"] == 0


def test_names_of_sibling_pods_resolve_when_their_service_is_there(cluster: Cluster, client: Client) -> None:
    """ "DNS for Services and Pods", "Pod's hostname and subdomain fields"."""
    env = [
        {"name": "MASTER", "value": "x-0.mesh:29500"},
        {"name": "LONG", "value": "x-0.mesh.default.svc.cluster.local"},
    ]
    details = {"subdomain": "mesh", "container": {"env": env}}
    client.batch.create_namespaced_job(
        "default", job("before", "echo $MASTER $LONG", indexed=1, pod=dict(details))
    )
    cluster.wait_for(lambda: [p for p in cluster.objects("pods") if p["status"]["phase"] == "Succeeded"])
    [early] = cluster.objects("pods")
    selector = {"clusterIP": "None", "selector": {"job-name": "x"}}
    client.core.create_namespaced_service("default", {"metadata": {"name": "mesh"}, "spec": selector})
    client.batch.create_namespaced_job(
        "default", job("x", "echo $MASTER $LONG", indexed=1, pod=dict(details))
    )
    [late] = cluster.wait_for(
        lambda: [
            p
            for p in cluster.objects("pods")
            if p["metadata"]["name"].startswith("x-") and p["status"]["phase"] == "Succeeded"
        ]
    )
    assert log_of(client, early["metadata"]["name"]) == "x-0.mesh:29500 x-0.mesh.default.svc.cluster.local\n"
    assert log_of(client, late["metadata"]["name"]) == "127.0.0.1:29500 127.0.0.1\n"
