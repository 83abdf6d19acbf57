"""The estimate of activations against what training really takes, and the advice that follows from it."""

import os
import subprocess
import sys

import pytest

from progdistill.diffusion.names import PredictionType
from progdistill.models.config import DenoiserConfig, LoraConfig, UNetConfig
from progdistill.training.memory import activation_bytes, fitting_micro_batch, state_memory, what_fits
from tests.training.conftest import settings, tiny

WIDE = DenoiserConfig(
    network=UNetConfig(
        image_channels=3,
        image_size=32,
        base_channels=64,
        channel_multipliers=(1, 1),
        residual_blocks=2,
        attention_resolutions=(16,),
    ),
    prediction=PredictionType.V,
)

PROGRAM = """if True:
    import re, sys
    import torch
    from progdistill.models.config import DenoiserConfig
    from progdistill.models.denoiser import build_denoiser
    from progdistill.training.execution import Execution, place

    torch.set_num_threads(1)
    images, checkpointing = int(sys.argv[2]), sys.argv[3] == "True"
    config = DenoiserConfig.model_validate_json(sys.argv[1])
    execution = Execution(activation_checkpointing=checkpointing)
    model = place(build_denoiser(config, 0), execution, torch.device("cpu")).train()

    def step(images):
        model(torch.randn(images, 3, 32, 32), torch.full((images,), 0.5)).square().mean().backward()

    def peak():  # getrusage counts the parent's memory as well, from before exec
        return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

    step(1)
    before = peak()
    step(images)
    print(peak() - before)
"""


def measured(images: int, checkpointing: bool) -> int:
    """By how much the peak of a process grows, in bytes, with a training step of so many images."""
    words = [sys.executable, "-c", PROGRAM, WIDE.model_dump_json(), str(images), str(checkpointing)]
    # Tensors are given back to the system at once, as a GPU's allocator reuses them.
    returning = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ | returning)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_estimate_is_near_the_measured_peak(checkpointing: bool) -> None:
    estimated, found = (
        activation_bytes(WIDE, 32, bfloat16=False, checkpointing=checkpointing),
        measured(32, checkpointing),
    )
    assert 0.8 * found < estimated < 1.2 * found


def test_recomputed_activations_take_less_and_more_images_more() -> None:
    one, two = (activation_bytes(tiny(), n, bfloat16=False, checkpointing=False) for n in (1, 2))
    recomputed = activation_bytes(tiny(), 2, bfloat16=False, checkpointing=True)
    assert recomputed < two and one < two < 2.1 * one


def test_a_frozen_base_has_neither_gradients_nor_copies_in_bfloat16() -> None:
    """Weights that are trained in float32 are cast once for both passes."""
    adapter = WIDE.model_copy(update={"lora": LoraConfig(base="b" * 64, rank=4, alpha=4.0)})
    whole, cast, halved = (
        activation_bytes(config, 1, bfloat16=True, checkpointing=True, frozen_bfloat16=frozen)
        for config, frozen in ((WIDE, False), (adapter, False), (adapter, True))
    )
    assert halved <= cast < 0.8 * whole


def test_the_state_has_no_average_where_training_keeps_none() -> None:
    assert state_memory(settings(1), 1000).total == 4 * 4 * 1000
    assert state_memory(settings(1, ema_decay=0.9), 1000, frozen=500, frozen_bytes=2).total == 5 * 4 * 1000 + 1000


def test_the_advice_is_what_fits() -> None:
    needed = activation_bytes(tiny(), 5, bfloat16=False, checkpointing=False)
    assert what_fits(tiny(), needed, bfloat16=False, checkpointing=False).startswith("5 do by an estimate, or ")
    assert "activation_checkpointing" not in what_fits(tiny(), needed, bfloat16=False, checkpointing=True)
    smallest = activation_bytes(tiny(), 1, bfloat16=False, checkpointing=True)
    assert "1 do by an estimate with compute.activation_ch" in what_fits(
        tiny(), smallest, bfloat16=False, checkpointing=False
    )
    assert "distill.lora.rank" in what_fits(tiny(), 0, bfloat16=False, checkpointing=False)


def test_a_micro_batch_is_the_largest_power_of_two_that_fits() -> None:
    how = {"bfloat16": False, "checkpointing": False}
    free = activation_bytes(tiny(), 13, **how) * 5 // 4 + 10
    assert fitting_micro_batch(tiny(), 64, free, **how) == 8
    assert fitting_micro_batch(tiny(), 13, free, **how) is None
    assert fitting_micro_batch(tiny(), 14, free, **how) == 8
    assert fitting_micro_batch(tiny(), 64, 0, **how) == 1
