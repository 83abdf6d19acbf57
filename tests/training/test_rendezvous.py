"""Real processes meet, lose one another, and meet again."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from progdistill.errors import PeerLostError
from progdistill.jobs.ranks import free_port

Member = subprocess.Popen[str]
Start = Callable[..., Member]

PEER_LOST = PeerLostError.exit_status
SOON = 120
"""Seconds: rather many, for a process that imports torch on a machine with much else to do."""


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts one of two ranks; all meet at the same port."""
    port, members = free_port(), []
    script = str(Path(__file__).with_name("gang_member.py"))

    def started(rank: int, group: str = "group") -> Member:
        command = [sys.executable, script, str(rank), "2", str(port), group]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        # As in a worker; below errors, torch tells of every peer whose name it cannot look up.
        environment = {**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR"}
        members.append(subprocess.Popen(command, text=True, env=environment, **pipes))  # type: ignore[call-overload]
        return members[-1]

    yield started
    for member in members:
        member.kill()
        member.communicate()


def token_of(member: Member) -> str:
    assert member.stdout is not None
    return member.stdout.readline().strip()


def finish(member: Member) -> None:
    assert member.stdin is not None
    member.stdin.write("\n")
    member.stdin.flush()


def test_ranks_share_a_token_and_none_leaves_before_rank_0(start: Start) -> None:
    first, second = start(0), start(1)
    assert token_of(first) == token_of(second) != ""
    finish(second)
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(timeout=1.5)
    finish(first)
    assert (first.wait(timeout=SOON), second.wait(timeout=SOON)) == (0, 0)


def test_the_successor_of_a_lost_rank_makes_all_meet_again_under_a_new_token(start: Start) -> None:
    first, second = start(0), start(1)
    token = token_of(first)
    second.send_signal(signal.SIGKILL)
    successor = start(1)
    assert first.wait(timeout=SOON) == PEER_LOST  # though it communicated with nobody
    first = start(0)
    assert token_of(first) == token_of(successor) not in ("", token)
    finish(first)
    finish(successor)
    assert (first.wait(timeout=SOON), successor.wait(timeout=SOON)) == (0, 0)


def test_who_waits_says_for_whom(start: Start) -> None:
    second = start(1)
    assert second.stderr is not None
    words = second.stderr.readline()
    assert "rank 1 has waited" in words and "rank 0, which does not answer at localhost:" in words
    first = start(0, "another group")
    assert first.stderr is not None
    assert "rank 0 has waited" in (words := first.stderr.readline())
    assert "for 1 of 2 ranks, rank 1 among them" in words


def test_when_rank_0_is_killed_the_others_leave_to_start_again(start: Start) -> None:
    first, second = start(0), start(1)
    assert token_of(second)
    first.kill()
    assert second.wait(timeout=SOON) == PEER_LOST


def test_a_rank_lost_before_all_have_met_does_not_hold_up_its_successor(start: Start) -> None:
    lost = start(1)
    first = start(0)
    assert token_of(lost)
    lost.kill()
    successor = start(1)
    assert first.wait(timeout=SOON) == PEER_LOST
    first = start(0)
    assert token_of(first) == token_of(successor)


def test_a_rank_of_another_group_disturbs_nobody(start: Start) -> None:
    first, stranger = start(0), start(1, group="deleted")
    second = start(1)
    assert token_of(first) == token_of(second)
    finish(second)
    finish(first)
    assert (first.wait(timeout=SOON), second.wait(timeout=SOON)) == (0, 0)
    assert stranger.poll() is None
