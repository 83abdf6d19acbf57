"""What a pod runs: `python -m progdistill.jobs.kubernetes.pod --store URI --job ID --processes N`.

It finds the request in the store and does its host's part of the job, as the host that JOB_COMPLETION_INDEX
names. Exit status as in worker.py and ranks.py; a job whose result is there is done.
"""

import argparse
import os
import signal
import sys
import tempfile
from types import FrameType

from progdistill.errors import Interrupted, ProgdistillError, UsageError
from progdistill.jobs.ranks import LocalRanks, run_ranks
from progdistill.jobs.spec import JobRequest, JobResult
from progdistill.store.base import Store
from progdistill.store.documents import read_record
from progdistill.store.layout import job_request_key, job_result_key
from progdistill.store.open import open_store


def main(arguments: list[str]) -> int:
    """Do this host's part of the job."""
    # The first process of a container would otherwise not even be stopped.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    parser = argparse.ArgumentParser(prog="progdistill.jobs.kubernetes.pod", description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--job", required=True)
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args(arguments)
    try:
        store = open_store(args.store)
        if read_record(store, job_result_key(args.job), JobResult) is not None:
            return 0
        request = _request(store, args.job)
    except ProgdistillError as error:
        print(error, file=sys.stderr, flush=True)
        return error.exit_status
    return _run(request, args.processes)


def _request(store: Store, job_id: str) -> JobRequest:
    request = read_record(store, job_request_key(job_id), JobRequest)
    if request is None:
        raise UsageError(
            f"{store.uri}/{job_request_key(job_id)} is gone: start the run again, which writes it"
        )
    if request.spec.id != job_id:
        raise UsageError(
            f"{store.uri}/{job_request_key(job_id)} describes job {request.spec.id} to this version of the"
            " package: give the pods an image of the driver's own version"
        )
    return request


def _run(request: JobRequest, processes: int) -> int:
    host, world_size = int(os.environ.get("JOB_COMPLETION_INDEX", "0")), request.spec.world_size
    address = os.environ["MASTER_ADDR"] if world_size > processes else "127.0.0.1"
    which = LocalRanks(host * processes, processes, world_size, address, int(os.environ["MASTER_PORT"]))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "request.json")
        with open(path, "w") as file:
            file.write(request.model_dump_json())
        if processes > 1:
            return run_ranks(which, ["-m", "progdistill.jobs.worker", path])
        os.environ.update(which.environment(0))
        from progdistill.jobs.worker import main as work  # imports torch

        return work(path)


def _leave(number: int, frame: FrameType | None) -> None:
    """Nothing has begun: leave at once."""
    os._exit(Interrupted.exit_status)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # As in worker.py.
    os._exit(status)
