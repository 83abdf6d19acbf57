"""The accelerators of a machine, found by its device files, and the precision of its jobs."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from progdistill.cli.doctor import accelerators_facts
from progdistill.run.ranks import world_size_here
from progdistill.training.accelerators import Accelerators, DeviceKind, accelerators_here, precision_for
from progdistill.training.config import ComputeSettings, Precision

MakeMachine = Callable[..., Path]


@pytest.fixture
def make_machine(tmp_path: Path) -> MakeMachine:
    """A folder that looks like a machine's root, with these files."""

    def make(*files: str, pci: tuple[str, str] | None = None) -> Path:
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
        if pci is not None:
            device = tmp_path / "sys/bus/pci/devices/0000:00:04.0"
            device.mkdir(parents=True)
            for name, value in zip(("vendor", "device"), pci, strict=True):
                (device / name).write_text(f"{value}\n")
        return tmp_path

    return make


def test_each_kind_of_accelerator_is_counted_by_its_own_files(make_machine: MakeMachine) -> None:
    nvidia = make_machine("dev/nvidia0", "dev/nvidia1", "dev/nvidiactl", "dev/nvidia-uvm")
    assert accelerators_here(nvidia) == Accelerators("cuda", 2)


def test_gpus_that_the_environment_hides_are_not_counted(
    make_machine: MakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = make_machine(*(f"dev/nvidia{number}" for number in range(8)))
    for visible, number in (("0", 1), ("2,3", 2), ("GPU-1f2e", 1)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert accelerators_here(machine) == Accelerators("cuda", number)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert accelerators_here(machine) == Accelerators("cpu", 0)


def test_amds_are_those_that_can_compute(make_machine: MakeMachine) -> None:
    amd = make_machine("dev/dri/card0", "dev/dri/renderD128", "dev/dri/renderD129")
    assert accelerators_here(amd) == Accelerators("cpu", 0)  # a display alone
    assert accelerators_here(make_machine("dev/kfd")) == Accelerators("cuda", 2)


@pytest.mark.parametrize("files", [("dev/accel0", "dev/accel1"), ("dev/vfio/0", "dev/vfio/1", "dev/vfio/vfio")])
def test_tpus_are_googles_pci_devices(files: tuple[str, ...], make_machine: MakeMachine) -> None:
    assert accelerators_here(make_machine(*files, pci=("0x1ae0", "0x006f"))) == Accelerators("tpu", 2)


def test_a_network_card_of_the_same_maker_is_no_tpu(make_machine: MakeMachine) -> None:
    assert accelerators_here(make_machine("dev/vfio/0", pci=("0x1ae0", "0x0042"))) == Accelerators("cpu", 0)


@pytest.fixture
def gpus_of_capability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A real program in the place of nvidia-smi."""

    def put(told: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\nprintf '{told}'\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return put


@pytest.mark.parametrize(
    ("kind", "capabilities", "precision"),
    [
        ("cpu", r"9.0\n", Precision.FLOAT32),
        ("cuda", r"9.0\n8.0\n", Precision.BFLOAT16),
        ("cuda", r"9.0\n7.5\n", Precision.FLOAT32),
        ("cuda", "", Precision.BFLOAT16),
        ("tpu", "", Precision.BFLOAT16),
    ],
)
def test_precision_is_what_the_kind_of_device_is_good_at(
    kind: DeviceKind, capabilities: str, precision: Precision, gpus_of_capability: Callable[[str], None]
) -> None:
    gpus_of_capability(capabilities)
    assert precision_for(ComputeSettings(), kind) is precision
    assert precision_for(ComputeSettings(precision="float32"), kind) is Precision.FLOAT32


def test_a_job_on_the_cpu_has_one_rank_whatever_accelerators_there_are() -> None:
    assert world_size_here(ComputeSettings(device="cpu")) == 1
    assert world_size_here(ComputeSettings(device="cpu", world_size=3)) == 3


@pytest.mark.parametrize(
    ("here", "said"),
    [
        (Accelerators("cpu", 0), "none: jobs run on the CPU"),
        (Accelerators("tpu", 4), "4 of kind tpu, which torch does not find: pip install torch-tpu==0.2.0"),
        (Accelerators("cuda", 2), "2 of kind cuda, which torch does not find: install torch's build for them"),
    ],
)
def test_the_doctor_names_accelerators_that_torch_leaves_idle(here: Accelerators, said: str) -> None:
    assert accelerators_facts(here, torch.device("cpu")).startswith(said)
