"""The elastic agent of a host: which failures of ranks are final, and which restart all ranks in place."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from progdistill.jobs.agent import LOST_PEER_EXIT_SECONDS, RESTARTS_WITHOUT_PROGRESS, RestartLimit

RUN = """
import sys
from progdistill.jobs import agent
from progdistill.logs import configure_logging
from progdistill.signals import StopSignals
configure_logging()
agent.LOG_INTERVAL_SECONDS = 0.5
total, host, endpoint, run_id, progress = sys.argv[1:6]
hosts = agent.Hosts(2 if total == "1" else 1, int(total), int(host), endpoint, run_id)
steps = iter(range(1000))
limit = agent.RestartLimit(lambda: next(steps) if progress == "yes" else 0)
with StopSignals() as signals:
    status = agent.run_ranks(hosts, sys.argv[6:], limit, signals)
    signals.ignore()
sys.exit(status)
"""


def command(script: str, total: int = 1, host: int = 0, port: int = 0, run_id: str = "run") -> list[str]:
    """Run the script as two ranks, of one host or of two."""
    where = [str(total), str(host), f"127.0.0.1:{port}", run_id, "no"]
    return [sys.executable, "-c", RUN, *where, "-c", script]


def run(script: str) -> "subprocess.CompletedProcess[str]":
    """Run the script as two ranks of this host."""
    return subprocess.run(command(script), capture_output=True, text=True, timeout=250)


def once(tmp_path: Path, action: str) -> str:
    """A script in which rank 1 does something in the first start only, while the others wait for it."""
    return f"""if True:
        import os, pathlib, sys, time
        done, waiting = pathlib.Path({str(tmp_path / "done")!r}), pathlib.Path({str(tmp_path / "waiting")!r})
        if not done.exists():
            if os.environ["RANK"] == "1":
                while not waiting.exists():
                    time.sleep(0.01)
                done.touch()
                {action}
            waiting.touch()
            time.sleep(300)
        print("well")
    """


def test_every_rank_has_torchruns_variables_and_its_lines_have_its_number() -> None:
    names = "'RANK', 'LOCAL_RANK', 'WORLD_SIZE'"
    done = run(f"import os; print(*(os.environ[name] for name in ({names})))")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["0 0 2", "[rank 1] 1 1 2"]


@pytest.mark.parametrize(
    ("action", "how"),
    [
        ("os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
        ("os.abort()", "was killed by SIGABRT"),
        ("os._exit(75)", "lost another rank"),
    ],
)
def test_a_rank_that_was_killed_or_lost_a_peer_is_restarted_with_all_others(
    action: str, how: str, tmp_path: Path
) -> None:
    done = run(once(tmp_path, action))
    assert done.returncode == 0, done.stderr
    assert f"rank 1 {how}; restarting all ranks" in done.stderr
    assert sorted(done.stdout.splitlines()) == ["[rank 1] well", "well"]


def test_a_rank_that_handles_no_signal_delays_no_restart(tmp_path: Path) -> None:
    """As inside of a collective that waits for the lost rank: torch's own patience is 30 s."""
    alive = tmp_path / "alive"
    script = f"""if True:
        import os, pathlib, signal, time
        alive = pathlib.Path({str(alive)!r})
        if not alive.exists() and os.environ["RANK"] == "0":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                alive.write_text(str(time.time()))
                time.sleep(0.01)
        while not alive.exists():
            time.sleep(0.01)
        lost = pathlib.Path({str(tmp_path / "lost")!r})
        if os.environ["RANK"] == "1" and not lost.exists():
            lost.write_text(str(time.time()))
            os.kill(os.getpid(), 9)
    """
    done = run(script)
    assert done.returncode == 0, done.stderr
    assert "rank 1 was killed by SIGKILL; restarting all ranks" in done.stderr
    waited = float(alive.read_text()) - float((tmp_path / "lost").read_text())
    assert LOST_PEER_EXIT_SECONDS - 1 < waited < 25


@pytest.mark.parametrize(
    ("rank_0", "rank_1", "status"),
    [(75, 2, 2), (75, 1, 1), (1, 1, 1), (1, 2, 2), (130, 130, 130), (130, 75, 130), (130, 1, 1)],
)
def test_an_error_is_final_and_wins_over_what_it_did_to_other_ranks(rank_0: int, rank_1: int, status: int) -> None:
    done = run(f"import os; os._exit(({rank_0}, {rank_1})[int(os.environ['RANK'])])")
    assert done.returncode == status
    assert "restarting" not in done.stderr


def test_restarts_end_where_there_is_no_progress() -> None:
    done = run("import os; os.kill(os.getpid(), 9)")
    assert done.returncode == 1
    assert done.stderr.count("restarting all ranks") == RESTARTS_WITHOUT_PROGRESS
    assert f"no newer snapshot after {RESTARTS_WITHOUT_PROGRESS} restarts" in done.stderr
    assert "killed by SIGKILL" in done.stderr.splitlines()[-1]


def test_progress_begins_the_count_of_restarts_again() -> None:
    progress = [0]
    limit = RestartLimit(lambda: progress[0])
    assert [limit.allows_another() for _ in range(RESTARTS_WITHOUT_PROGRESS + 1)] == [
        *[True] * RESTARTS_WITHOUT_PROGRESS,
        False,
    ]
    progress[0] = 1
    assert limit.allows_another()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_rank_once_per_signal(number: signal.Signals) -> None:
    script = (
        "import signal, sys, time\n"
        f"signal.signal({int(number)}, lambda *_: (print('asked'), sys.exit(130)))\n"
        "print('ready', flush=True); time.sleep(300)"
    )
    started = subprocess.Popen(command(script), stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    lines = [started.stdout.readline() for _ in range(2)]
    started.send_signal(number)
    rest, _ = started.communicate(timeout=250)
    assert all("ready" in line for line in lines) and rest.count("asked") == 2
    assert started.returncode == 130


def test_ranks_end_where_nobody_reads_their_output_any_more() -> None:
    """As when the driver was killed: each rank notices by itself, and ends."""
    script = "import sys; print('ready', flush=True); sys.stdin.read(); print('going'); sys.exit(130)"
    started = subprocess.Popen(
        command(script), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert started.stdout is not None and started.stdin is not None
    for _ in range(2):
        assert "ready" in started.stdout.readline()
    started.stdout.close()
    started.stdin.close()
    try:
        assert started.wait(timeout=250) == 130
    finally:
        started.kill()


def test_a_line_that_is_not_text_is_passed_on() -> None:
    command_ = command("import os; os.write(1, b'half a letter: \\xc3\\n')")
    done = subprocess.run(command_, capture_output=True, timeout=250)
    assert done.returncode == 0 and done.stdout.count(b"half a letter: \xc3\n") == 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Hosts:
    """Two hosts of one rank each: agents that are started, killed and replaced."""

    def __init__(self) -> None:
        self._port, self._agents = free_port(), list[subprocess.Popen[str]]()

    def start(self, host: int, script: str, run_id: str = "run") -> "subprocess.Popen[str]":
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        arguments = command(script, 2, host, self._port, run_id)
        self._agents.append(subprocess.Popen(arguments, text=True, **pipes))  # type: ignore[call-overload]
        return self._agents[-1]

    def stop(self) -> None:
        for agent in self._agents:
            agent.kill()
            agent.communicate()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    hosts = Hosts()
    yield hosts
    (tmp_path / "go").touch()  # for the ranks of killed agents, which nothing else ends
    hosts.stop()


def line_with(agent: "subprocess.Popen[str]", text: str) -> str:
    """Read the output up to a line that has the text."""
    assert agent.stdout is not None
    for line in agent.stdout:
        if text in line:
            return line
    raise AssertionError(f"no line with {text!r}")


def in_pairs(tmp_path: Path, then: str = "print('well')") -> str:
    """A script whose ranks work until the file `go` exists, then do what `then` says."""
    go = str(tmp_path / "go")
    return f"""if True:
        import os, pathlib, time
        print("working", flush=True)
        while not pathlib.Path({go!r}).exists():
            time.sleep(0.05)
        rank = int(os.environ["RANK"])
        {then}
    """


@pytest.mark.slow
def test_a_host_that_was_silent_too_long_joins_the_others_again(hosts: Hosts, tmp_path: Path) -> None:
    """Its agent did not run for longer than torch waits for heartbeats, and the other host was lost meanwhile."""
    script = in_pairs(tmp_path)
    first, second = hosts.start(0, script), hosts.start(1, script)
    for agent in (first, second):
        line_with(agent, "working")
    first.send_signal(signal.SIGSTOP)
    second.kill()
    time.sleep(20)
    first.send_signal(signal.SIGCONT)
    time.sleep(2)  # it gives itself up
    successor = hosts.start(1, script)
    line_with(successor, "working")
    line_with(first, "working")
    (tmp_path / "go").touch()
    assert (first.wait(timeout=250), successor.wait(timeout=250)) == (0, 0)


@pytest.mark.slow
def test_a_replaced_host_joins_the_survivor_and_a_host_of_another_job_joins_none(hosts: Hosts, tmp_path: Path) -> None:
    script = in_pairs(tmp_path)
    second = hosts.start(1, script)
    assert "host 0 does not answer at 127.0.0.1:" in line_with(second, "does not answer")
    stranger = hosts.start(1, script, run_id="deleted")
    first = hosts.start(0, script)
    line_with(first, "working")
    line_with(second, "working")
    second.kill()
    successor = hosts.start(1, script)
    line_with(successor, "working")
    line_with(first, "working")
    (tmp_path / "go").touch()
    assert (first.wait(timeout=250), successor.wait(timeout=250)) == (0, 0)
    assert stranger.poll() is None or stranger.returncode == 75


def test_ranks_that_stopped_with_a_rank_of_another_host_are_restarted(hosts: Hosts, tmp_path: Path) -> None:
    """As where a pod is deleted: all ranks stop after the same update, with a snapshot."""
    done = f"done = pathlib.Path({str(tmp_path)!r}, str(rank))"
    script = in_pairs(tmp_path, f"{done}; again = done.exists(); done.touch(); os._exit(0 if again else 130)")
    agents = [hosts.start(0, script), hosts.start(1, script)]
    (tmp_path / "go").touch()
    outputs = [agent.communicate(timeout=250)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0]
    assert any("stopped with a rank of another host; restarting all ranks" in output for output in outputs)


def test_a_host_that_loses_the_rendezvous_exits_with_75(hosts: Hosts, tmp_path: Path) -> None:
    script = in_pairs(tmp_path)
    first, second = hosts.start(0, script), hosts.start(1, script)
    line_with(second, "working")
    line_with(first, "working")
    first.kill()
    assert second.wait(timeout=250) == 75


@pytest.mark.slow
def test_host_0_that_is_done_waits_no_five_minutes_for_a_host_that_is_gone(hosts: Hosts, tmp_path: Path) -> None:
    script = in_pairs(tmp_path, "time.sleep(60 * rank)")
    first, second = hosts.start(0, script), hosts.start(1, script)
    line_with(second, "working")
    line_with(first, "working")
    second.kill()
    (tmp_path / "go").touch()
    assert first.wait(timeout=150) == 0


def test_a_host_that_waits_for_others_says_so_and_can_be_interrupted(hosts: Hosts) -> None:
    first = hosts.start(0, "pass")
    assert "host 0 is waiting for the job's other hosts" in line_with(first, "waiting")
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=250) == 130


def test_of_hosts_that_fail_together_one_reports_it(hosts: Hosts, tmp_path: Path) -> None:
    """The other waits for its successor, or has lost the rendezvous with it."""
    script = in_pairs(tmp_path, "os._exit(1)")
    agents = [hosts.start(0, script), hosts.start(1, script)]
    line_with(agents[1], "working")
    (tmp_path / "go").touch()
    while not any(agent.poll() == 1 for agent in agents):
        time.sleep(0.1)
    other = next(agent for agent in agents if agent.poll() != 1)
    other.send_signal(signal.SIGTERM)
    assert other.wait(timeout=250) in (75, 130)
