"""How many ranks a job has, and on which devices."""

from progdistill.config.settings import LauncherName, Settings
from progdistill.training.accelerators import DeviceKind, accelerators_here, kind_for
from progdistill.training.config import ComputeSettings


def world_size_of(settings: Settings, kind: str) -> int:
    """The number of ranks of a job of that kind."""
    if settings.launcher is LauncherName.LOCAL:
        return world_size_here(settings.compute)
    return settings.cluster.for_kind(kind)[1].world_size


def device_of(settings: Settings, kind: str) -> DeviceKind:
    """What the networks of a job of that kind run on."""
    if settings.launcher is LauncherName.LOCAL:
        return kind_for(settings.compute)
    return settings.cluster.for_kind(kind)[1].device_kind


def world_size_here(compute: ComputeSettings) -> int:
    """As set, else one rank per accelerator that the job uses, else one."""
    if compute.world_size is not None:
        return compute.world_size
    found = accelerators_here()
    return max(1, found.number) if compute.device in ("auto", found.kind) else 1
