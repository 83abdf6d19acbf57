"""The worker: `python -m progdistill.jobs.worker REQUEST` does one job and publishes its result.

Exit status: 0 done, 1 failed, 2 usage error, 75 lost another rank, 130 stopped with a snapshot. The same code
runs alone and as one of several ranks. It publishes at most once: a job that is done is left alone.
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from progdistill.errors import Interrupted, PeerLostError, ProgdistillError, UsageError
from progdistill.jobs.result_cache import cached_result
from progdistill.jobs.spec import EvaluateSpec, JobRequest, JobResult, PrepareEvaluatorSpec, TrainingSpec
from progdistill.store.base import Store
from progdistill.store.documents import publish_record
from progdistill.store.layout import job_result_key
from progdistill.store.open import open_store
from progdistill.training.devices import Rank
from progdistill.training.rendezvous import is_loss_of_a_peer

_LOOK_SECONDS = 1.0
_UNWIND_SECONDS = 10.0
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """Whether to stop: a signal came, or the process that asked for the work is gone."""

    def __init__(self, driver_process_id: int | None, at_once: str | None = None) -> None:
        """With `at_once` either raises Interrupted once with these words, wherever the work is."""
        self._asked, self._driver, self._at_once = False, driver_process_id, at_once
        self._is_over = threading.Event()
        _answer_signals(self._ask)
        if at_once is not None:
            threading.Thread(target=self._end_at_once, args=(at_once,), daemon=True).start()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if self._at_once is not None:
            # Ctrl-C comes twice, to the process group and from the driver.
            _answer_signals(signal.SIG_IGN)
            raise Interrupted(self._at_once)

    def _end_at_once(self, words: str) -> None:
        """For work that never asks whether to stop, even where what was raised in it got lost.

        Python drops what is raised while it clears an object away, and a library may catch anything.
        """
        while not self():
            if self._is_over.wait(_LOOK_SECONDS):
                return
        if not self._asked:
            os.kill(os.getpid(), signal.SIGTERM)
        if self._is_over.wait(_UNWIND_SECONDS):
            return
        print(words, file=sys.stderr, flush=True)
        os._exit(Interrupted.exit_status)

    def end(self) -> None:
        """The work is over and will be told: there is nothing left to stop."""
        _answer_signals(signal.SIG_IGN)
        self._is_over.set()

    def __call__(self) -> bool:
        return self._asked or self._driver_is_gone()

    def _driver_is_gone(self) -> bool:
        if self._driver is None:
            return False
        try:
            os.kill(self._driver, 0)
        except ProcessLookupError:
            return True
        return False


def _answer_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for number in _STOP_SIGNALS:
        signal.signal(number, handler)


def run_job(request: JobRequest, rank: Rank, should_stop: Callable[[], bool]) -> None:
    """Do a job unless its result is there, and publish the result from rank 0."""
    store, spec = open_store(request.store), request.spec
    if cached_result(store, spec) is not None:
        return
    started_at = datetime.now(UTC)
    output, loss_curve = _work(request, store, rank, should_stop)
    if rank.rank == 0:
        result = JobResult(
            job_id=spec.id,
            output=output,
            started_at=started_at,
            finished_at=datetime.now(UTC),
            device=rank.device_name,
            loss_curve=tuple(loss_curve),
        )
        publish_record(store, job_result_key(spec.id), result)
        if isinstance(spec, TrainingSpec):
            from progdistill.jobs.train import tidy_up

            tidy_up(store, spec.id)


def _work(
    request: JobRequest, store: Store, rank: Rank, should_stop: Callable[[], bool]
) -> tuple[str, list[tuple[int, float]]]:
    spec = request.spec
    if isinstance(spec, PrepareEvaluatorSpec | EvaluateSpec):
        from progdistill.jobs.evaluate import run_measuring

        return run_measuring(request, store, rank), []
    from progdistill.jobs.train import run_training

    return run_training(request, store, rank, should_stop)


def main(path: str) -> int:
    """Do the job that the file describes; return the exit status."""
    return work(JobRequest.model_validate_json(Path(path).read_text()))


def work(request: JobRequest) -> int:
    """Do a job as the rank that the environment names; return the exit status."""
    try:
        _answer_signals(_leave)  # ranks may wait long for one another
        _check_ranks(request)
        rank = Rank(request.compute.device, request.compute.threads_per_rank)
        measuring = isinstance(request.spec, PrepareEvaluatorSpec | EvaluateSpec)
        stop = StopSignal(
            request.driver_process_id, "stopped; what is measured is kept" if measuring else None
        )
        return _worked(request, rank, stop)
    except Exception as error:
        if is_loss_of_a_peer(error):
            error = PeerLostError(f"lost another rank: {error}")
        return _told(request, error)


def _check_ranks(request: JobRequest) -> None:
    """Raise UsageError where the environment tells of other ranks than the job's: they would never meet."""
    found, wanted = os.environ.get("WORLD_SIZE", "1"), request.spec.world_size
    if found != str(wanted):
        raise UsageError(
            f"WORLD_SIZE is {found}, but this job is for {wanted} rank{'s' * (wanted > 1)}: unset RANK,"
            " LOCAL_RANK and WORLD_SIZE, or start it with python -m progdistill.jobs.ranks"
        )


def _leave(number: int, frame: FrameType | None) -> None:
    """Nothing has begun, so nothing is to be saved."""
    _answer_signals(signal.SIG_IGN)
    print("stopped before it began", file=sys.stderr, flush=True)
    os._exit(Interrupted.exit_status)


def _worked(request: JobRequest, rank: Rank, stop: StopSignal) -> int:
    """Of ranks that fail together, one tells why with its status; the others were lost because of it."""
    status = 0
    try:
        try:
            run_job(request, rank, stop)
        finally:
            stop.end()
    except Interrupted as error:
        status = _told(request, error)
        if not isinstance(request.spec, TrainingSpec):
            return status  # the others go on measuring, and lose this one
    except Exception as error:
        if is_loss_of_a_peer(error):
            raise
        status = _told(request, error)
        return status if rank.claim_failure() else PeerLostError.exit_status
    rank.close()
    return status


def _told(request: JobRequest, error: Exception) -> int:
    if isinstance(error, ProgdistillError):
        print(f"{request.spec.label}: {error}", file=sys.stderr, flush=True)
        return error.exit_status
    traceback.print_exception(error)
    return 1


if __name__ == "__main__":
    status = main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is published and every thread joined; unloading torch takes most of a second.
    os._exit(status)
