"""A profile of a training: its trace, its page, and the work that utilization is measured by."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from progdistill.diffusion.grid import AngleGrid
from progdistill.diffusion.names import LossWeight, TeacherSolver
from progdistill.diffusion.noise import generator
from progdistill.models.denoiser import build_denoiser
from progdistill.training.config import Precision
from progdistill.training.guidance import GuidanceRange
from progdistill.training.jump_objective import JumpObjective
from progdistill.training.loop import train
from progdistill.training.objective import BaseObjective, DistillationObjective, GuidanceObjective, Trajectory
from progdistill.training.profile import (
    NEEDED_UPDATES,
    PARTS,
    PROFILED,
    ProfiledUpdates,
    Work,
    forward_flops,
    product_rate,
)
from progdistill.training.random import BatchRandom
from tests.training.conftest import MakeTask, settings, tiny

CONFIG = tiny(middle_attention="none")  # torch does not count the attention of CPUs


def test_a_profile_says_where_the_time_of_an_update_went(make_task: MakeTask, tmp_path: Path) -> None:
    work = Work(16, 3 * forward_flops(CONFIG), product_rate(torch.device("cpu"), Precision.FLOAT32))
    task = make_task(BaseObjective(LossWeight.SNR_PLUS_ONE), settings(NEEDED_UPDATES, ema_decay=0.9))
    hooks = task.hooks._replace(watch=ProfiledUpdates(tmp_path / "profile", work))
    train(task._replace(hooks=hooks), build_denoiser(CONFIG, seed=0), None)

    names = [event.get("name") for event in json.loads((tmp_path / "profile/trace.json").read_text())["traceEvents"]]
    marked = {part: names.count(f"progdistill.{part}") for part in PARTS}
    assert marked["data"] == marked["forward"] == marked["backward"] == PROFILED and marked["snapshot"] == 0

    page = (tmp_path / "profile/profile.html").read_text()
    shares = {part: float(share) for part, share in re.findall(r"<tr><td>(\w+)</td>.*?<td>([\d.]+)%</td></tr>", page)}
    assert shares.keys() == {*PARTS, "host"} and sum(shares.values()) == pytest.approx(100, abs=1)
    assert shares["backward"] > shares["data"] and "aten::convolution_backward" in page
    (utilization,) = re.findall(r"([\d.]+)% of the", page)
    assert 0 < float(utilization) < 100


def test_the_work_of_an_image_is_what_its_way_through_the_network_computes() -> None:
    model = build_denoiser(CONFIG, seed=0)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(3, 1, 8, 8), torch.zeros(3), {"label": torch.zeros(3, dtype=torch.int64)})
    assert forward_flops(CONFIG) == counter.get_total_flops() / 3 > 1e6


def objectives() -> dict[str, DistillationObjective]:
    """One of each way to a target."""
    teacher, weight, even = build_denoiser(tiny(), seed=1), LossWeight.SNR_PLUS_ONE, AngleGrid()
    guided = build_denoiser(tiny(label_dropout=True), seed=1)
    return {
        "progressive": DistillationObjective(teacher, 4, weight),
        "three steps": DistillationObjective(teacher, 4, weight, teacher_steps=3),
        "heun": DistillationObjective(teacher, 4, weight, solver=TeacherSolver.HEUN),
        "guidance": GuidanceObjective(guided, 4, weight, GuidanceRange(lowest=1, highest=3)),
        "tract": JumpObjective(teacher, 4, weight, None, even, 8, None),
        "addim": JumpObjective(teacher, 4, weight, None, even, 8, None, solver=TeacherSolver.ADDIM, addim_eta=0.5),
        "heun jumps": JumpObjective(teacher, 4, weight, None, even, 8, None, solver=TeacherSolver.HEUN),
        "teacher's states": DistillationObjective(
            teacher, 4, weight, trajectory=Trajectory(of_student=False, most_steps=3)
        ),
        "student's states": DistillationObjective(
            teacher, 4, weight, trajectory=Trajectory(of_student=True, most_steps=16)
        ),
    }


@pytest.mark.parametrize("name", objectives())
def test_the_passes_of_an_update_are_those_that_an_objective_makes(name: str) -> None:
    objective, asked = objectives()[name], 0
    student = build_denoiser(tiny(label_dropout=name == "guidance"), seed=2)

    def count(*call: object) -> None:
        nonlocal asked
        asked += 1

    for model in (student, objective._teacher):
        model.register_forward_hook(count)
    labels = {"label": torch.arange(16) % 10}
    objective(student, student, torch.zeros(16, 1, 8, 8), labels, BatchRandom(generator(5, "test", 0), 16))
    assert objective.passes_without_gradient + 1 == asked
