"""The device of a rank, and the message if there is none of that kind."""

import sys

import pytest
import torch

from progdistill.errors import UsageError
from progdistill.training.config import ComputeSettings, Precision
from progdistill.training.devices import choose_device, device_name
from progdistill.training.distributed import Rank
from progdistill.training.execution import check_precision, decide

CPU = torch.device("cpu")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@no_gpu
def test_without_accelerators_jobs_run_on_the_cpu() -> None:
    assert choose_device("auto", 0) == CPU and device_name(CPU) == "cpu"
    assert Rank("auto", 1).device == CPU


@no_gpu
def test_a_gpu_that_is_not_here_is_the_users_to_mend() -> None:
    with pytest.raises(UsageError, match=r"nvidia-smi.*compute\.device=cpu"):
        choose_device("cuda", 0)


def test_a_tpu_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_tpu", None)  # Python's own mark of a module that is not there
    with pytest.raises(UsageError, match="pip install torch-tpu"):
        choose_device("tpu", 0)


def test_tf32_is_for_gpus() -> None:
    with pytest.raises(UsageError, match="tf32 is for CUDA GPUs"):
        check_precision(Precision.TF32, CPU)
    check_precision(Precision.BFLOAT16, CPU)


def test_on_a_cpu_nothing_is_compiled_or_shared_out_unless_asked_for() -> None:
    decided = decide(ComputeSettings(micro_batch_size=7), Precision.FLOAT32, CPU, 2, 10**12)
    assert decided == (Precision.FLOAT32, False, False, False, 7, True)
    asked = ComputeSettings(compile="on", activation_checkpointing=True)
    assert decide(asked, Precision.BFLOAT16, CPU, 1, 10**6)[:4] == (Precision.BFLOAT16, True, True, False)
    assert decide(ComputeSettings(parallelism="fsdp"), Precision.FLOAT32, CPU, 2, 10**6).sharded


def test_one_rank_has_nobody_to_share_weights_with() -> None:
    with pytest.raises(UsageError, match=r"compute\.world_size"):
        decide(ComputeSettings(parallelism="fsdp"), Precision.FLOAT32, CPU, 1, 10**6)


def test_what_is_shared_out_can_be_compiled() -> None:
    decided = decide(ComputeSettings(parallelism="fsdp", compile="on"), Precision.FLOAT32, CPU, 2, 10**6)
    assert decided.compile and decided.sharded
