"""Removes from the environment what this machine's user has configured for other work.

A test sets what it needs. Otherwise an AWS or Metaflow profile could point tests to someone's buckets, a proxy
could intercept requests to the servers that tests start on the loopback interface, and the rank variables of an
allocation could make a process wait for ranks that nobody starts.
"""

import os
from collections.abc import MutableMapping

from progdistill.jobs.local import RANK_VARIABLES

PREFIXES = ("AWS_", "CLOUDSDK_", "GIT_", "GOOGLE_", "KUBERNETES_", "METAFLOW_", "PROGDISTILL_")
NAMES = (
    *RANK_VARIABLES,
    *("ARGO_WORKFLOW_TEMPLATE", "JOB_COMPLETION_INDEX", "KUBECONFIG", "STORAGE_EMULATOR_HOST"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
)
NO_FILES = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "METAFLOW_HOME": os.devnull}
"""In place of the files in the home folder that say the same as those variables."""


removed: dict[str, str] = {}
"""What was in the environment of this process; the tests of a real cluster are meant for what the user set there."""


def clear(environment: MutableMapping[str, str]) -> None:
    """Leave of an environment what a machine has on which nothing was set up."""
    for name in [name for name in environment if name.startswith(PREFIXES) or name.upper() in NAMES]:
        value = environment.pop(name)
        if environment is os.environ:
            removed[name] = value
    environment.update(NO_FILES)
