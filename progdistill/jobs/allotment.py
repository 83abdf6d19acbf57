"""What a job of each kind is given by a run's settings: how many ranks, on which kind of device."""

from progdistill.config import LauncherName, Settings
from progdistill.jobs.accelerators import DeviceKind, accelerators_here, kind_for
from progdistill.training.config import ComputeSettings


def ranks_of(settings: Settings, kind: str) -> int:
    """The number of ranks of a job of that kind."""
    if settings.launcher is LauncherName.LOCAL:
        return ranks_here(settings.compute)
    return settings.cluster.for_kind(kind)[1].ranks


def device_of(settings: Settings, kind: str) -> DeviceKind:
    """What the networks of a job of that kind run on."""
    if settings.launcher is LauncherName.LOCAL:
        return kind_for(settings.compute)
    return settings.cluster.for_kind(kind)[1].device_kind


def ranks_here(compute: ComputeSettings) -> int:
    """The number of ranks of a job here: as asked for, else one per accelerator that it uses, else one."""
    if compute.ranks is not None:
        return compute.ranks
    found = accelerators_here()
    return max(1, found.number) if compute.device in ("auto", found.kind) else 1
