"""Processes of one host run, end and fail together, with a status that says what happened."""

import signal
import subprocess
import sys

import pytest

from progdistill.jobs.ranks import overall

RUN = (
    "import sys; from progdistill.jobs.ranks import *;"
    "sys.exit(run_ranks(LocalRanks(2, 2, 4, 'host', 1), sys.argv[1:]))"
)


def run(script: str) -> "subprocess.CompletedProcess[str]":
    """Run the script as ranks 2 and 3 of 4."""
    return subprocess.run(
        [sys.executable, "-c", RUN, "-c", script], capture_output=True, text=True, timeout=250
    )


def test_every_rank_knows_its_place_and_its_lines_bear_its_number() -> None:
    names = "'RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'"
    done = run(f"import os; print(*(os.environ[name] for name in ({names})))")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["[rank 2] 2 0 4 host 1", "[rank 3] 3 1 4 host 1"]


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        ((0, 0), 0),
        ((0, 75), 75),
        ((75, 1), 1),
        ((75, 137, 1), 137),
        ((1, 2), 2),
        ((130, 130), 130),
        ((130, 1), 1),
    ],
)
def test_the_status_is_of_the_rank_that_failed_by_itself(statuses: tuple[int, ...], status: int) -> None:
    assert overall(statuses) == status


def test_a_killed_rank_is_named_with_its_signal() -> None:
    done = run("import os; os.environ['RANK'] == '3' and os.kill(os.getpid(), 9); os._exit(75)")
    assert done.returncode == 137
    assert "rank 3 was killed by SIGKILL" in done.stdout


def test_ranks_that_do_not_notice_are_ended_after_a_while() -> None:
    setting = "import progdistill.jobs.ranks as r; r.SETTLE_SECONDS = 0.2; "
    script = "import os, time; os.environ['RANK'] == '3' and os._exit(1); time.sleep(300)"
    command = [sys.executable, "-c", setting + RUN, "-c", script]
    assert subprocess.run(command, capture_output=True, timeout=250).returncode == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_rank(number: signal.Signals) -> None:
    script = (
        "import signal, sys, time\n"
        f"signal.signal({int(number)}, lambda *_: (print('asked'), sys.exit(130)))\n"
        "print('ready', flush=True); time.sleep(300)"
    )
    command = [sys.executable, "-c", RUN, "-c", script]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    lines = [started.stdout.readline() for _ in range(2)]
    started.send_signal(number)
    rest, _ = started.communicate(timeout=250)
    assert all("ready" in line for line in lines) and rest.count("asked") == 2
    assert started.returncode == 130


def test_ranks_are_waited_for_where_nobody_reads_what_they_say_any_more() -> None:
    """As when the driver was killed: each rank notices by itself, says so to nobody, and ends."""
    script = "import sys; print('ready', flush=True); sys.stdin.read(); print('going'); sys.exit(130)"
    command = [sys.executable, "-c", RUN, "-c", script]
    started = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert started.stdout is not None and started.stdin is not None
    for _ in range(2):
        assert "ready" in started.stdout.readline()
    started.stdout.close()
    started.stdin.close()
    try:
        started.wait(timeout=250)
    finally:
        started.kill()


def test_a_line_that_is_no_text_is_handed_on_as_far_as_it_is() -> None:
    done = run("import os; os.write(1, b'half a letter: \\xc3\\n')")
    assert done.returncode == 0 and done.stdout.count("half a letter") == 2
