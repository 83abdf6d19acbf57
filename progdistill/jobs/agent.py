"""Runs the ranks of a job under torch's elastic agent, one agent per machine or pod.

`python -m progdistill.jobs.agent REQUEST` runs all ranks of a job on this machine. When a rank was killed, aborted,
or lost another rank, all are restarted in place from the last snapshot. Exit status: 0 done, 1 failed, 2 usage error,
75 lost the rendezvous host, 130 interrupted.
"""

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from subprocess import Popen
from typing import Any, Final, NamedTuple, cast

import torch.distributed.elastic.multiprocessing.api as torch_processes
from torch._C._distributed_c10d import Store  # torch.distributed does not export its type
from torch.distributed import DistError
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs, SubprocessContext
from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

from progdistill.data.encoding import EncodingStage
from progdistill.errors import Interrupted, PeerLostError, ProgdistillError, UsageError
from progdistill.jobs.forkserver import fork_server, fork_worker
from progdistill.jobs.spec import EncodeSpec, JobRequest, JobSpec
from progdistill.logs import as_line, configure_logging, is_json, log_fields
from progdistill.signals import StopSignals, raise_interrupt
from progdistill.store import base
from progdistill.store.layout import SHARDS
from progdistill.store.open import open_store
from progdistill.training.accelerators import kind_for
from progdistill.training.snapshots import complete_snapshots

RESTARTS_WITHOUT_PROGRESS: Final = 5
LOG_INTERVAL_SECONDS: Final = 60.0
HOST_0_EXIT_SECONDS: Final = 30.0
"""How long host 0, whose rank has published the result, waits for the ranks of hosts that may be gone."""

LOST_PEER_EXIT_SECONDS: Final = 3
"""How long ranks that lost another one have from SIGTERM to SIGKILL: inside a collective they handle no signal."""

_EXIT_SECONDS: Final = 300.0  # for the other hosts to wait for that rank
_JOIN_SECONDS: Final = 7 * 24 * 3600  # for hosts to wait for one another: a pod may be queued for days

_ENVIRONMENT: Final = {
    # Without this a replaced pod waits for an address that the survivors do not publish again.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    "TORCH_ELASTIC_WORKER_IDENTICAL": "1",  # every host has as many ranks: none needs to tell the others
    "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGQUIT",  # SIGINT and SIGTERM are handled here
}

_NETWORK_HINT: Final = (
    ". Usually the hosts do not reach one another: allow all TCP ports between them (the rendezvous is at {}, gloo and"
    " NCCL choose theirs), or name the network interface in GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
    " (--set cluster.env=…)"
)

_WORKER: Final = "progdistill.jobs.worker"

logger = logging.getLogger("progdistill.jobs.agent")  # runs as __main__


class Hosts(NamedTuple):
    """The machines or pods of a job. Host 0 serves the rendezvous at `endpoint` to equal `run_id`s."""

    ranks_per_host: int
    total: int = 1
    host: int = 0
    endpoint: str = "127.0.0.1:0"
    run_id: str = "local"


class RestartLimit:
    """Bounds restarts by the progress between them, not by their number over weeks."""

    def __init__(self, progress: Callable[[], object]) -> None:
        self._progress = progress
        self._last: object = None
        self._restarts = 0

    def allows_another(self) -> bool:
        """Count a restart; return False after RESTARTS_WITHOUT_PROGRESS in a row without progress."""
        try:
            progress = self._progress()
        except ProgdistillError:  # the store does not answer, and the ranks will say so
            progress = self._last
        if progress != self._last:
            self._last, self._restarts = progress, 0
        self._restarts += 1
        return self._restarts <= RESTARTS_WITHOUT_PROGRESS


def progress_of(spec: JobSpec, store: base.Store) -> tuple[int, int]:
    """Return the update of the newest snapshot, and the finished shards of an encoding or of any evaluation."""
    snapshots = complete_snapshots(store, spec.id)
    shards = sum(1 for _ in store.list(SHARDS)) if spec.kind == "evaluate" else 0
    if isinstance(spec, EncodeSpec):
        shards = len(EncodingStage(spec.out, spec.id).finished())
    return (snapshots[0].update if snapshots else 0), shards


class _Agent(LocalElasticAgent):
    """torch's agent with our rules for which failures are final, and with our handling of signals."""

    status = 0  # the exit status of a job that failed

    def __init__(
        self, spec: WorkerSpec, logs: LogsSpecs, hosts: Hosts, limit: RestartLimit, signals: StopSignals
    ) -> None:
        super().__init__(spec, logs, exit_barrier_timeout=_EXIT_SECONDS if hosts.host else HOST_0_EXIT_SECONDS)
        self._hosts, self._limit, self._signals = hosts, limit, signals

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        self._signals.action = raise_interrupt  # there are no ranks that could handle it
        self._signals.check()
        with _log_while_waiting(f"host {self._hosts.host} is waiting for the job's other hosts"):
            super()._rendezvous(worker_group)
        self._signals.action = self._forward

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, int]:
        started: dict[int, int] = super()._start_workers(worker_group)
        for number in self._signals.received:  # since the rendezvous
            self._forward(number)
        return started

    def close_pipes(self) -> None:
        """Close this process's ends of the ranks' pipes, so that their readers come to an end."""
        self._pcontext = None

    def _forward(self, number: int) -> None:
        for rank in self._ranks().values():
            if rank.poll() is None:
                rank.send_signal(number)

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        self._stop_soon()
        super()._stop_workers(worker_group)

    def _stop_soon(self) -> None:
        """End ranks that wait for one that is lost. Those that were asked to stop have torch's half minute instead."""
        if self._pcontext is not None and not self._signals.received:
            self._pcontext.close(signal.SIGTERM, LOST_PEER_EXIT_SECONDS)

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        failed = self._failed(worker_group)
        if any(code != Interrupted.exit_status for code in failed.values()):
            self._stop_soon()
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed():
            codes = {rank: failure.exitcode for rank, failure in result.failures.items()}
            self.status = self._status_of(codes, failed or codes)
            self._remaining_restarts = 0 if self.status else 1
        elif result.state == WorkerState.HEALTHY and self._others_meet_again():
            logger.warning("host %d was silent and given up; restarting its ranks to join the others", self._hosts.host)
            self._remaining_restarts = 1
            return RunResult(state=WorkerState.UNHEALTHY)
        return result

    def _others_meet_again(self) -> bool:
        """Whether a new rendezvous has begun while this host's ranks work on.

        A host whose agent did not run for 15 s is no longer part of the rendezvous and sends no heartbeat any more: the
        others do not wait for it, and its ranks wait for theirs. torch asks only for hosts that wait beside a complete
        rendezvous, and has no public way to see that it is not.
        """
        handler: Any = self._worker_group.spec.rdzv_handler
        return not handler._state_holder.state.complete

    def _ranks(self) -> "dict[int, Popen[bytes]]":
        context = cast(SubprocessContext | None, self._pcontext)
        return {} if context is None else {rank: each.proc for rank, each in context.subprocess_handlers.items()}

    def _failed(self, worker_group: WorkerGroup) -> dict[int, int]:
        """Return the exit codes of ranks that have failed by themselves."""
        codes = {worker_group.workers[rank].global_rank: process.poll() for rank, process in self._ranks().items()}
        return {rank: code for rank, code in codes.items() if code}

    def _status_of(self, codes: dict[int, int], first: dict[int, int]) -> int:
        """Return the exit status for ranks with these exit codes (-n: signal n), or 0 to restart them.

        Those of `first` failed by themselves; this agent ended the others.
        """
        ends = codes.values()
        if UsageError.exit_status in ends:
            return UsageError.exit_status
        failed = [end for end in ends if end > 0 and end not in (75, 130)]
        if failed and self._is_first_to_fail():
            return failed[0]
        killed = {rank: end for rank, end in first.items() if end < 0 and end != -signal.SIGTERM}
        if self._signals.received or (self._hosts.total == 1 and 130 in ends and not killed):
            return Interrupted.exit_status
        rank, end = next(iter(killed.items()), next(iter(first.items())))
        how = f"was killed by {signal.Signals(-end).name}" if end < 0 else "lost another rank"
        if end == Interrupted.exit_status:
            how = "stopped with a rank of another host"
        if self._limit.allows_another():
            logger.warning("rank %d %s; restarting all ranks from the last snapshot", rank, how)
            return 0
        hint = "" if self._hosts.total == 1 else _NETWORK_HINT.format(self._hosts.endpoint)
        what = f"no newer snapshot after {RESTARTS_WITHOUT_PROGRESS} restarts; rank {rank} {how}{hint}"
        logger.error("no progress: %s", what)
        return ProgdistillError.exit_status

    def _is_first_to_fail(self) -> bool:
        """Of hosts that fail together only the first reports it: each report would cost the job a retry."""
        store = cast(Store, self._worker_group.store)
        try:
            return bool(store.add("failed", 1) == 1)
        except DistError:
            return False


class _Rank(SubprocessHandler):
    """A rank, forked where there is a fork server: importing torch is most of the time that a restart takes."""

    def _popen(self, args: tuple[str, ...], env: dict[str, str]) -> "Popen[bytes]":
        *_, module, request = args
        if module == _WORKER:
            assert self._stdout is not None
            forked = fork_worker(request, env, self._stdout.fileno(), group=True)
            if forked is not None:
                return cast("Popen[bytes]", forked)
        return super()._popen(args, env)


class _PrefixedOutput(LogsSpecs):
    """Copies the ranks' output to standard output as it comes; text of rank n > 0 begins with `[rank n]`."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self._folder, self._number = folder, count()
        self._threads: list[threading.Thread] = []

    @property
    def root_log_dir(self) -> str:
        return self._folder

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Make the pipes of one start of the ranks."""
        paths = {local_rank: os.path.join(self._folder, str(next(self._number))) for local_rank in envs}
        self._threads = []  # earlier ranks have ended, and their lines are read
        for local_rank, path in paths.items():
            os.mkfifo(path)
            rank = int(envs[local_rank]["RANK"])
            thread = threading.Thread(target=_copy_lines, args=(path, rank), daemon=True)
            thread.start()
            self._threads.append(thread)
        return LogsDest(paths, paths, error_files=dict.fromkeys(paths, os.devnull))

    def flush(self) -> None:
        """Wait for the last lines of ranks that have ended."""
        for thread in self._threads:
            thread.join(timeout=10)


def _copy_lines(path: str, rank: int) -> None:
    prefix = f"[rank {rank}] ".encode() if rank else b""
    with open(path, "rb") as lines:
        for line in lines:
            if is_json():  # also what a library wrote
                text = as_line(line.decode(errors="replace").rstrip("\n"), logger="", rank=rank)
                prefix, line = b"", f"{text}\n".encode()
            with suppress(BrokenPipeError):  # the driver is gone; ranks must not fail because of it
                os.write(1, prefix + line)


@contextmanager
def _log_while_waiting(what: str) -> Iterator[None]:
    done, began = threading.Event(), time.monotonic()

    def log() -> None:
        while not done.wait(LOG_INTERVAL_SECONDS):
            logger.info("%s (for %.0f s)", what, time.monotonic() - began)

    threading.Thread(target=log, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _wait_for_host(endpoint: str) -> None:
    address, _, port = endpoint.rpartition(":")
    with _log_while_waiting(f"host 0 does not answer at {endpoint}: still waiting"):
        while True:
            with suppress(OSError), socket.create_connection((address, int(port)), timeout=5):
                return
            time.sleep(0.5)


def run_ranks(hosts: Hosts, arguments: list[str], limit: RestartLimit, signals: StopSignals) -> int:
    """Run `python ARGUMENTS` as this host's ranks until they are done or have failed for good; return the status.

    Stop signals are forwarded to the ranks.
    """
    os.environ.update(_ENVIRONMENT)
    # torch has no other way to say how a rank is started.
    torch_processes.get_subprocess_handler = _Rank  # type: ignore[attr-defined, assignment]
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of the ranks; as in kubernetes/pod.py
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        if hosts.host > 0:
            _wait_for_host(hosts.endpoint)
        parameters = RendezvousParameters(
            backend="c10d",
            endpoint=hosts.endpoint,
            run_id=hosts.run_id,
            min_nodes=hosts.total,
            max_nodes=hosts.total,
            local_addr="127.0.0.1" if hosts.total == 1 else socket.gethostbyname(socket.gethostname()),
            is_host=hosts.host == 0,
            join_timeout=_JOIN_SECONDS,
            last_call_timeout=1,
        )
        with tempfile.TemporaryDirectory() as folder:
            output = _PrefixedOutput(folder)
            spec = WorkerSpec(
                role="rank",
                local_world_size=hosts.ranks_per_host,
                entrypoint=sys.executable,
                args=tuple(arguments),
                rdzv_handler=get_rendezvous_handler(parameters),
                max_restarts=1,
                monitor_interval=0.2,
                local_addr=parameters.local_addr,
            )
            agent = _Agent(spec, output, hosts, limit, signals)
            agent.run()
            agent.close_pipes()
            output.flush()
            return agent.status
    except KeyboardInterrupt:
        return Interrupted.exit_status
    except (RendezvousError, DistError) as error:
        logger.error("lost the rendezvous host %s: %s", hosts.endpoint, error)
        return PeerLostError.exit_status


def run_job_on(hosts: Hosts, path: Path, request: JobRequest) -> int:
    """Run this host's ranks of the job whose request is at `path`; return the exit status."""
    configure_logging()
    store = open_store(request.store)
    limit = RestartLimit(lambda: progress_of(request.spec, store))
    # A TPU's library reads its environment when torch is imported.
    server = nullcontext() if kind_for(request.compute) == "tpu" else fork_server(request.store)
    with log_fields(**request.log_fields), server, StopSignals() as signals:
        status = run_ranks(hosts, ["-P", "-m", _WORKER, str(path)], limit, signals)
        signals.ignore()
    return status


if __name__ == "__main__":
    path = Path(sys.argv[1])
    request = JobRequest.model_validate_json(path.read_text())
    sys.exit(run_job_on(Hosts(request.spec.world_size), path, request))
