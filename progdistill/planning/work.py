"""The trainings of a run: which kinds, how many images, and what each holds in memory."""

from typing import Literal, NamedTuple

from progdistill.config import Settings
from progdistill.jobs.allotment import ranks_of
from progdistill.training.config import TrainingSettings

Kind = Literal["train_base", "guide", "distill"]
"""The kinds of training jobs."""

FLOAT_BYTES = 4


class Work(NamedTuple):
    """All trainings of one kind in a run."""

    kind: Kind
    images: int
    batch_size: int
    ranks: int
    """As the run's settings have it, on this machine or in the cluster."""
    state_bytes: int
    """A rank's weights, gradients, the optimizer's two moments, the moving average and the teacher,
    in float32, or its share of them where the settings ask for FSDP."""


def work_of(settings: Settings, parameters: int) -> list[Work]:
    """The trainings that a run does unless it finds them done, in order."""
    found: list[Work] = []
    base, distill = settings.base, settings.distill

    def add(kind: Kind, training: TrainingSettings, updates: int) -> None:
        copies = 4 + (training.ema_decay is not None) + (kind != "train_base")
        ranks = ranks_of(settings, kind)
        sharing = ranks if settings.compute.parallelism == "fsdp" else 1
        state_bytes = copies * FLOAT_BYTES * parameters // sharing
        found.append(Work(kind, updates * training.batch_size, training.batch_size, ranks, state_bytes))

    if settings.first_teacher is None:
        add("train_base", base, base.updates)
    if settings.has_guided_stage:
        add("guide", distill, distill.for_guidance().updates)
    add("distill", distill, sum(distill.for_stage(steps).updates for steps in settings.ladder[1:]))
    return found
