"""The trainings of a run: which kinds, how many images, and what each holds in memory."""

from typing import Literal, NamedTuple

from progdistill.config import Settings

Kind = Literal["train_base", "guide", "distill"]
"""The kinds of training jobs."""

FLOAT_BYTES = 4


class Work(NamedTuple):
    """All trainings of one kind in a run."""

    kind: Kind
    images: int
    batch_size: int
    state_bytes: int
    """Weights, gradients, the optimizer's two moments, the moving average and the teacher, in float32."""


def work_of(settings: Settings, parameters: int) -> list[Work]:
    """The trainings that a run does unless it finds them done, in order."""
    found: list[Work] = []
    base, distill = settings.base, settings.distill

    def state(average: float | None, teachers: int) -> int:
        return (4 + (average is not None) + teachers) * FLOAT_BYTES * parameters

    if settings.first_teacher is None:
        images = base.updates * base.batch_size
        found.append(Work("train_base", images, base.batch_size, state(base.ema_decay, 0)))
    if settings.has_guided_stage:
        images = distill.for_guidance().updates * distill.batch_size
        found.append(Work("guide", images, distill.batch_size, state(distill.ema_decay, 1)))
    images = sum(distill.for_stage(steps).updates for steps in settings.ladder[1:]) * distill.batch_size
    found.append(Work("distill", images, distill.batch_size, state(distill.ema_decay, 1)))
    return found
