"""The worker: `python -m progdistill.jobs.worker REQUEST` does one job and publishes its result.

It runs alone or as one of several ranks, and does nothing where the job already has its result. Exit status: 0 done,
1 failed, 2 usage error, 75 lost another rank, 130 interrupted, with a snapshot.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from progdistill.errors import Interrupted, PeerLostError, ProgdistillError, UsageError
from progdistill.jobs.result_cache import cached_result
from progdistill.jobs.spec import (
    CheckpointOutput,
    EncodeSpec,
    EvaluateSpec,
    JobOutput,
    JobRequest,
    JobResult,
    PrepareEvaluatorSpec,
)
from progdistill.logs import as_line, configure_logging, log_fields
from progdistill.signals import StopSignals, exit_interrupted, raise_interrupt, record
from progdistill.store.documents import publish_record
from progdistill.store.files import usage_error_of
from progdistill.store.layout import job_result_key
from progdistill.store.open import open_store
from progdistill.training.devices import device_name
from progdistill.training.distributed import Rank, is_peer_failure

DRIVER_CHECK_SECONDS = 1.0
UNWIND_SECONDS = 10.0
_INTERRUPTED = "interrupted; what is finished is kept"

logger = logging.getLogger("progdistill.jobs.worker")  # runs as __main__


def run_job(request: JobRequest, rank: Rank, should_stop: Callable[[], bool]) -> None:
    """Do a job unless the store has its result; rank 0 publishes it. Training asks `should_stop` after every update."""
    store, spec = open_store(request.store), request.spec
    if cached_result(store, spec) is not None:
        return
    started_at = datetime.now(UTC)
    output: JobOutput | None
    if isinstance(spec, PrepareEvaluatorSpec | EvaluateSpec):
        from progdistill.jobs.evaluate import run_measuring

        output = run_measuring(spec, request, store, rank)
    elif isinstance(spec, EncodeSpec):
        from progdistill.jobs.encode import run_encoding

        output = run_encoding(spec, request, store, rank)
    else:
        from progdistill.jobs.train import run_training

        output = run_training(spec, request, store, rank, should_stop)
    if output is not None:  # on rank 0
        name = device_name(rank.device)
        result = JobResult(
            job_id=spec.id, output=output, started_at=started_at, finished_at=datetime.now(UTC), device=name
        )
        publish_record(store, job_result_key(spec.id), result)
        if isinstance(output, CheckpointOutput):
            from progdistill.jobs.train import delete_leftovers

            delete_leftovers(store, spec.id)


def main(path: str) -> int:
    """Do the job whose request is in the file at `path`; return the exit status."""
    configure_logging()
    if "RANK" in os.environ:
        with suppress(OSError):
            Path("/proc/self/comm").write_text(f"rank {os.environ['RANK']}")  # in `top` and `nvidia-smi`
    return work(JobRequest.model_validate_json(Path(path).read_text()))


def work(request: JobRequest) -> int:
    """Do a job as the rank that the environment names; return the exit status."""
    fields = {**request.log_fields, "rank": int(os.environ.get("RANK", "0"))}
    with log_fields(**fields), StopSignals(exit_interrupted, once=True) as signals:  # ranks may wait for one another
        try:
            return _work(request, signals)
        except Exception as error:
            if is_peer_failure(error):
                error = PeerLostError(f"lost another rank: {error}")
            return report_error(request, usage_error_of(error) or error)
        finally:
            signals.ignore()


def _work(request: JobRequest, signals: StopSignals) -> int:
    _check_world_size(request)
    rank = Rank(request.compute.device, request.compute.threads_per_rank)
    is_training = not isinstance(request.spec, PrepareEvaluatorSpec | EvaluateSpec | EncodeSpec)
    done, status = threading.Event(), 0
    watch = (request.driver_process_id, signals, done, not is_training)
    threading.Thread(target=_watch, args=watch, daemon=True).start()
    try:
        signals.action = _announce_snapshot if is_training else raise_interrupt
        run_job(request, rank, lambda: bool(signals.received))
    except KeyboardInterrupt:
        raise Interrupted(_INTERRUPTED) from None  # other ranks go on measuring, and lose this one
    except Interrupted as error:
        status = report_error(request, error)
    finally:
        signals.action = record  # nothing is left to stop
        done.set()
    rank.close()
    return status


def _check_world_size(request: JobRequest) -> None:
    """Raise UsageError where the environment has another number of ranks than the job."""
    found, wanted = os.environ.get("WORLD_SIZE", "1"), request.spec.world_size
    if found != str(wanted):
        raise UsageError(
            f"WORLD_SIZE is {found}, but this job has {wanted} rank{'s' * (wanted > 1)}: unset RANK,"
            " LOCAL_RANK and WORLD_SIZE, or start it with python -m progdistill.jobs.agent"
        )


def _announce_snapshot(number: int) -> None:
    """Report that training ends after this update, when `signals.received` is read."""
    with suppress(OSError):  # nobody reads it any more
        os.write(2, f"{as_line('interrupted: saving a snapshot', logger=logger.name)}\n".encode())


def _watch(driver: int | None, signals: StopSignals, done: threading.Event, exits: bool) -> None:
    """Stop the work when the driver is gone; with `exits`, exit where an interrupt was raised in vain.

    A library may catch everything, and Python drops what a handler raises while an object is finalized.
    """
    while not done.wait(DRIVER_CHECK_SECONDS):
        if driver is not None and not signals.received:
            try:
                os.kill(driver, 0)
            except ProcessLookupError:
                os.kill(os.getpid(), signal.SIGTERM)
        if exits and signals.received and not done.wait(UNWIND_SECONDS):
            logger.error(_INTERRUPTED)
            os._exit(Interrupted.exit_status)


def report_error(request: JobRequest, error: Exception) -> int:
    """Log an error, with a traceback if it is not one of this package's; return the exit status."""
    if isinstance(error, ProgdistillError):
        logger.error("%s: %s", request.spec.label, error)
        return error.exit_status
    logger.error("%s failed", request.spec.label, exc_info=error)
    return ProgdistillError.exit_status


if __name__ == "__main__":
    status = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is published and every thread joined; unloading torch takes most of a second.
    os._exit(status)
