"""A driver process: runs a job with the Kubernetes launcher, and prints its result."""

import json
import sys
from pathlib import Path

from progdistill.config.cluster import ClusterSettings
from progdistill.errors import ProgdistillError
from progdistill.jobs.kubernetes.launcher import KubernetesLauncher
from progdistill.jobs.result_cache import complete
from progdistill.jobs.spec import CheckpointOutput, JobRequest
from progdistill.logs import configure_logging
from progdistill.store.open import open_store


def main(path: str) -> int:
    """Do what the file says; as in a step of the flow, an error is one message and a status."""
    configure_logging()
    facts = json.loads(Path(path).read_text())
    request = JobRequest.model_validate(facts["request"])
    store = open_store(request.store)
    launcher = KubernetesLauncher(store, ClusterSettings.model_validate(facts["cluster"]), Path(facts["logs"]))
    try:
        print(complete(store, launcher, request).result.output_of(CheckpointOutput).checkpoint_id)
    except ProgdistillError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
