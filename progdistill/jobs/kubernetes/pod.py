"""What a pod runs: `python -m progdistill.jobs.kubernetes.pod --store URI --job ID --processes N`.

It finds the request in the store and does its host's part of the job, as the host that JOB_COMPLETION_INDEX names.
Exit status as in worker.py and agent.py; a job whose result is there is done.
"""

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path

from progdistill.errors import ProgdistillError, UsageError
from progdistill.jobs.spec import JobRequest, JobResult
from progdistill.logs import configure_logging, log_fields
from progdistill.signals import StopSignals, exit_interrupted
from progdistill.store.base import Store
from progdistill.store.documents import read_record
from progdistill.store.layout import job_request_key, job_result_key
from progdistill.store.open import open_store

logger = logging.getLogger("progdistill.jobs.kubernetes.pod")  # runs as __main__


def main(arguments: list[str]) -> int:
    """Do this host's part of the job."""
    parser = argparse.ArgumentParser(prog="progdistill.jobs.kubernetes.pod", description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--job", required=True)
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args(arguments)
    configure_logging()
    # The first process of a container ignores a signal that has no handler.
    with log_fields(job=args.job), StopSignals(exit_interrupted):
        try:
            request = _request(open_store(args.store), args.job)
        except ProgdistillError as error:
            logger.error("%s", error)
            return error.exit_status
        return 0 if request is None else _run(request, args.processes)


def _request(store: Store, job_id: str) -> JobRequest | None:
    """The job's request, or None if the job is done."""
    if read_record(store, job_result_key(job_id), JobResult) is not None:
        return None
    key = job_request_key(job_id)
    request = read_record(store, key, JobRequest)
    if request is None:
        raise UsageError(f"{store.uri}/{key} is gone: start the run again, which writes it")
    if request.spec.id != job_id:
        raise UsageError(
            f"{store.uri}/{key} describes job {request.spec.id} to this version of the package: give the pods an"
            " image of the driver's own version"
        )
    return request


def _run(request: JobRequest, processes: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "request.json")
        path.write_text(request.model_dump_json())
        if request.spec.world_size == 1:
            from progdistill.jobs.worker import main as work  # imports torch

            return work(str(path))
        # Read where torch is imported. Below, torch reports every closed connection with a C++ stack.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        from progdistill.jobs.agent import Hosts, run_job_on

        hosts, total = Hosts(processes), request.spec.world_size // processes
        if total > 1:
            host, endpoint = os.environ["JOB_COMPLETION_INDEX"], "{MASTER_ADDR}:{MASTER_PORT}".format(**os.environ)
            hosts = Hosts(processes, total, int(host), endpoint, os.environ["PROGDISTILL_JOB_UID"])
        return run_job_on(hosts, path, request)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # as in worker.py
