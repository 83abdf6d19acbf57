"""Variables that Metaflow reads, some of them while it is imported. Import this module before `metaflow`."""

import os

from progdistill.training.accelerators import accelerators_here

# A job uses all accelerators of the machine; on CPUs, more tasks than cores slow one another down.
_WORKERS = "1" if accelerators_here().number else str(os.cpu_count() or 1)

DEFAULTS = {
    "METAFLOW_DATASTORE_SYSROOT_LOCAL": os.getcwd(),  # not the nearest .metaflow of a parent folder
    # The headers hold the metadata service's key: pods read it from a Secret, not from the public workflow.
    "METAFLOW_ARGO_WORKFLOWS_ENV_VARS_TO_SKIP": "METAFLOW_SERVICE_HEADERS",
    "METAFLOW_RUN_MAX_WORKERS": _WORKERS,
    # A sweep is bounded by --max-runs.
    "METAFLOW_RUN_MAX_NUM_SPLITS": "10000",
    "METAFLOW_RESUME_MAX_NUM_SPLITS": "10000",
    "METAFLOW_RESUME_MAX_WORKERS": os.environ.get("METAFLOW_RUN_MAX_WORKERS", _WORKERS),
}

for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)
if os.environ.get("USER", "root") == "root":
    os.environ.setdefault("METAFLOW_USER", "progdistill")  # Metaflow refuses root
