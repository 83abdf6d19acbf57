"""Run a cluster in the foreground: prints the path of its kubeconfig, and ends with Ctrl-C or SIGTERM."""

import argparse
import signal
import threading
from pathlib import Path

from tests.kubernetes_api import Node, running_cluster


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.kubernetes_api", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where its files go")
    parser.add_argument("--gpus", type=int, default=0, help="nvidia.com/gpu on the one node")
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    node = Node("node-1", cpu=64, memory_gib=256, gpu=options.gpus)
    with running_cluster(options.folder, nodes=[node]) as cluster:
        print(cluster.kubeconfig, flush=True)
        stop.wait()


if __name__ == "__main__":
    main()
