"""Deletes what drivers left behind: `python -m progdistill.jobs.kubernetes.reap`, a CronJob of infra.

A Job of a scheduled run outlives its driver, so that the next attempt attaches to it. When the workflow has ended,
nobody waits for the Job any more. Its last snapshot is in the store: a run of the same job goes on from there.
"""

import argparse
import logging
import sys
from datetime import UTC, datetime, timedelta

from progdistill.config.cluster import ClusterSettings
from progdistill.errors import ProgdistillError
from progdistill.jobs.kubernetes.api import ClusterApi, Object, connect
from progdistill.jobs.kubernetes.diagnostics import condition
from progdistill.jobs.kubernetes.manifest import CREATED_BY_ANNOTATION
from progdistill.logs import configure_logging

OURS = "app.kubernetes.io/managed-by=progdistill"
logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Delete orphans, and say which."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--after-minutes", type=float, default=60, help="since the workflow ended; default 60")
    args = parser.parse_args(arguments)
    configure_logging()
    try:
        reap(connect(ClusterSettings()), timedelta(minutes=args.after_minutes))
    except ProgdistillError as error:
        logger.error("%s", error)
        return error.exit_status
    return 0


def reap(api: ClusterApi, after: timedelta) -> list[str]:
    """Delete unfinished Jobs whose workflow ended, or is gone, and Services that never got a Job.

    Args:
        api: With the permissions to list and delete Jobs and Services, and to get workflows.
        after: The time that must have passed since the workflow ended, or since the Job or Service was created.

    Returns:
        The paths of what was deleted.
    """
    before = datetime.now(UTC) - after
    deleted = []
    for group, resource, is_orphan in (("batch/v1", "jobs", _is_orphan_job), ("v1", "services", _is_orphan_service)):
        listed = api.get(api.path(group, resource), labelSelector=OURS) or {}
        for item in listed.get("items", []):
            metadata = item["metadata"]
            if _time(metadata["creationTimestamp"]) < before and is_orphan(api, item, before):
                path = api.path(group, resource, metadata["name"])
                api.delete(path, metadata["uid"])
                logger.info("deleted %s of %s", path, metadata.get("annotations", {}).get(CREATED_BY_ANNOTATION))
                deleted.append(path)
    return deleted


def _is_orphan_job(api: ClusterApi, job: Object, before: datetime) -> bool:
    _, scheduled, workflow = job["metadata"].get("annotations", {}).get(CREATED_BY_ANNOTATION, "").partition("/argo-")
    if not scheduled or condition(job, "Complete", "Failed") is not None:
        return False  # of a person, who may come back; or kept for a while to be looked at
    found = api.get(api.path("argoproj.io/v1alpha1", "workflows", workflow))
    if found is None:
        return True
    ended = found.get("status", {}).get("finishedAt")
    return ended is not None and _time(ended) < before


def _is_orphan_service(api: ClusterApi, service: Object, before: datetime) -> bool:
    """Its Job owns it as soon as that exists: the driver died between the two."""
    return not service["metadata"].get("ownerReferences")


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


if __name__ == "__main__":
    sys.exit(main())
