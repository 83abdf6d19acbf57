"""The exit handler of a scheduled run: fails unless the run has its report, and notifies a webhook.

A workflow can end as succeeded although steps were omitted; what counts is the report in the store.
"""

import argparse
import json
import logging
import os
import sys
import urllib.request
from urllib.error import URLError

from progdistill.errors import ProgdistillError
from progdistill.logs import configure_logging
from progdistill.store.layout import report_key
from progdistill.store.open import open_store

WEBHOOK_VARIABLE = "PROGDISTILL_NOTIFY_WEBHOOK"
"""URL that gets {"text": …} by POST, as Slack's incoming webhooks do; from a Secret."""

_TIMEOUT_SECONDS = 30
logger = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if the run has its report, 1 otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="Flow/run id")
    parser.add_argument("--store", required=True, help="URI of the store, quoted as JSON or plain")
    parser.add_argument("--status", default="", help="of the workflow, for the message")
    args = parser.parse_args(arguments)
    configure_logging()
    flow, _, run_id = args.run.partition("/")
    store = json.loads(args.store) if args.store.startswith('"') else args.store
    try:
        if open_store(store).read(report_key(flow, run_id)) is not None:
            return 0
        problem = f"{args.run} ended ({args.status or 'status unknown'}) without a report in {store}"
    except ProgdistillError as error:
        problem = f"{args.run} ended ({args.status or 'status unknown'}); whether it has a report is unknown: {error}"
    logger.error("%s; `resume` continues it (docs/schedules.md)", problem)
    _notify(problem)
    return 1


def _notify(text: str) -> None:
    url = os.environ.get(WEBHOOK_VARIABLE)
    if not url:
        return
    body = json.dumps({"text": text}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS).close()
    except (URLError, OSError, ValueError) as error:  # The URL is a secret: the message must not show it.
        logger.error("the webhook of %s could not be notified: %s", WEBHOOK_VARIABLE, type(error).__name__)


if __name__ == "__main__":
    sys.exit(main())
