"""Several real processes train the same as one: replicated or sharded weights, micro-batches, interruptions."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from progdistill.data.dataset import DatasetInfo
from progdistill.training.config import OptimizerName
from tests.training.member import Order


def launch(world_size: int, order: Order) -> list[tuple[int, str]]:
    """Run the ranks to their ends; return the exit status and the last words of each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    members = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.member", order.model_dump_json()],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        words = [member.communicate(timeout=1000)[1] for member in members]
    finally:
        for member in members:
            member.kill()
    return [(member.returncode, text) for member, text in zip(members, words, strict=True)]


def trained(folder: Path, digits: DatasetInfo, world_size: int, **changes: Any) -> dict[str, Tensor]:
    """The weights of a training in a folder of its own."""
    folder.mkdir(exist_ok=True)
    ended = launch(world_size, Order(folder=folder, digits=digits, **changes))
    assert all(status == 0 for status, _ in ended), ended
    return load_file(folder / "weights.safetensors")


@pytest.fixture(scope="module")
def of_one_rank(digits: DatasetInfo, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return trained(tmp_path_factory.mktemp("one"), digits, 1)


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("micro_batch_size", [None, pytest.param(3, marks=pytest.mark.slow)])
def test_two_ranks_train_what_one_trains(
    sharded: bool, micro_batch_size: int | None, of_one_rank: dict[str, Tensor], digits: DatasetInfo, tmp_path: Path
) -> None:
    found = trained(tmp_path, digits, 2, sharded=sharded, micro_batch_size=micro_batch_size)
    assert_close(found, of_one_rank)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_compiled_blocks_of_sharded_weights_train_the_same(
    of_one_rank: dict[str, Tensor], digits: DatasetInfo, tmp_path: Path
) -> None:
    # All of torch.compile but its last part, the compiler of C++, which takes minutes and knows nothing of ranks.
    changes = {"sharded": True, "compile_backend": "aot_eager", "activation_checkpointing": True}
    assert_close(trained(tmp_path, digits, 2, **changes), of_one_rank)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, True), (1, False)),
        pytest.param((1, False), (2, True), marks=pytest.mark.slow),
        pytest.param((2, True), (4, True), marks=pytest.mark.slow),
        pytest.param((2, True), (2, False), marks=pytest.mark.slow),
    ],
)
def test_a_stopped_training_goes_on_with_other_ranks(
    before: tuple[int, bool],
    after: tuple[int, bool],
    of_one_rank: dict[str, Tensor],
    digits: DatasetInfo,
    tmp_path: Path,
) -> None:
    (world_size, sharded), (ranks_after, sharded_after) = before, after
    stopped = launch(world_size, Order(folder=tmp_path, digits=digits, stop_after=2, sharded=sharded))
    assert [status for status, _ in stopped] == [130] * world_size, stopped
    found = trained(tmp_path, digits, ranks_after, sharded=sharded_after, attempt="second")
    assert_close(found, of_one_rank)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_a_student_that_is_its_own_teacher_goes_on_with_two_ranks(
    sharded: bool, digits: DatasetInfo, tmp_path: Path
) -> None:
    """Its average is in the snapshot; under FSDP it is sharded, and in place while the student jumps."""
    alone = trained(tmp_path / "alone", digits, 1, jumps=True)
    order = Order(folder=tmp_path, digits=digits, stop_after=2, jumps=True)
    assert [status for status, _ in launch(1, order)] == [130]
    assert_close(trained(tmp_path, digits, 2, jumps=True, sharded=sharded, attempt="second"), alone)


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True])
def test_muon_goes_on_with_two_ranks(sharded: bool, digits: DatasetInfo, tmp_path: Path) -> None:
    """Sharded momenta are gathered for their singular vectors."""
    alone = trained(tmp_path / "alone", digits, 1, optimizer="muon")
    order = Order(folder=tmp_path, digits=digits, stop_after=2, optimizer=OptimizerName.MUON)
    assert [status for status, _ in launch(1, order)] == [130]
    assert_close(trained(tmp_path, digits, 2, optimizer="muon", sharded=sharded, attempt="second"), alone)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_loss_that_is_not_finite_on_one_rank_stops_all(sharded: bool, digits: DatasetInfo, tmp_path: Path) -> None:
    order = Order(folder=tmp_path, digits=digits, sharded=sharded, rank_without_finite_loss=1)
    ended = launch(2, order)
    assert [status for status, _ in ended] == [3, 3], ended
    assert all("at update 2 are not finite" in words for _, words in ended)
    assert not (tmp_path / "weights.safetensors").exists()
