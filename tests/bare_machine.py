"""Takes out of the environment what somebody has set up on this machine for work of their own.

A test sets what it is about. Without this a profile of AWS or Metaflow would lead it to somebody's buckets, a
proxy would answer for the servers that tests start on the loopback interface, and the names of an allocation
would have a process wait for ranks that nobody starts.
"""

import os
from collections.abc import MutableMapping

from progdistill.jobs.local import RANK_VARIABLES

PREFIXES = ("AWS_", "GIT_", "KUBERNETES_", "METAFLOW_", "PROGDISTILL_")
NAMES = (
    *RANK_VARIABLES,
    *("ARGO_WORKFLOW_TEMPLATE", "JOB_COMPLETION_INDEX", "KUBECONFIG"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
)
NO_FILES = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "METAFLOW_HOME": os.devnull}
"""In place of the files in the home folder that say the same as those variables."""


def clear(environment: MutableMapping[str, str]) -> None:
    """Leave of an environment what a machine has on which nothing was set up."""
    for name in [name for name in environment if name.startswith(PREFIXES) or name.upper() in NAMES]:
        del environment[name]
    environment.update(NO_FILES)
