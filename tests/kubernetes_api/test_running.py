"""A cluster in a process of its own, and what is left when one has stopped: nothing."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import kubernetes
import pytest

from tests.kubernetes_api import running_cluster
from tests.kubernetes_api.clients import client_of
from tests.kubernetes_api.manifests import pod
from tests.kubernetes_api.observing import pods_in_phase


def test_the_command_prints_a_kubeconfig_that_works_and_ends_on_sigterm(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.kubernetes_api", "--folder", str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        config = process.stdout.readline().strip()
        api = kubernetes.config.new_client_from_config(config_file=config)
        assert kubernetes.client.VersionApi(api).get_code().major == "1"
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0


def test_nothing_is_left_of_a_cluster(tmp_path: Path) -> None:
    threads = set(threading.enumerate())
    with running_cluster(tmp_path) as cluster:
        client = client_of(cluster)
        client.core.create_namespaced_pod("default", pod("x", "trap '' TERM; sleep 60 & sleep 60"))
        cluster.wait_for(lambda: pods_in_phase(cluster, "Running"))
        watching = client.core.list_namespaced_pod("default", watch=True, _preload_content=False)
        following = client.core.read_namespaced_pod_log("x", "default", follow=True, _preload_content=False)
        port = int(cluster.url.rpartition(":")[2])
        folder = str(tmp_path)
    assert watching is not None and following is not None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert {thread for thread in threading.enumerate() if thread.is_alive()} <= threads
    assert [entry for entry in os.listdir("/proc") if entry.isdigit() and _works_in(entry, folder)] == []


def _works_in(pid: str, folder: str) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/cwd").startswith(folder)
    except OSError:
        return False
