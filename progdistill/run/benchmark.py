"""`plan --measure`: how fast this machine trains a run, by a few updates of its jobs in a temporary store."""

import contextlib
import logging
import tempfile
from pathlib import Path
from typing import Any

from progdistill.config.settings import LauncherName, Settings
from progdistill.errors import LostInvariantError
from progdistill.jobs.forkserver import fork_server
from progdistill.registry.checkpoint import TrainingFigures, load_manifest
from progdistill.run.prepare import PreparedRun
from progdistill.run.rates import Kind, Rate
from progdistill.run.steps import RunSteps
from progdistill.store.open import open_store

_logger = logging.getLogger(__name__)

WARM_UP = 3
"""Updates of the shorter of two trainings; their difference excludes what happens once."""

NEEDED_UPDATES = 20
"""Enough for a profile, which skips a few and ends before the last (training/profile.py)."""

Measured = tuple[str, TrainingFigures]
"""The device, and what the training took on it."""


def measure_here(run: PreparedRun, updates: int, profile: Path | None = None) -> list[Rate]:
    """The rate of each kind of the run's trainings on this machine, over that many updates.

    With `profile`, each kind is trained again under a profiler, which leaves a folder there.
    """
    with fork_server():
        few, more = _train(run, WARM_UP), _train(run, WARM_UP + updates)
        if profile is not None:
            live = run.settings.live.model_copy(update={"profile": str(profile.absolute())})
            profiled = run.settings.model_copy(update={"live": live})
            _train(run.model_copy(update={"settings": profiled}), NEEDED_UPDATES)
    return [rate_between(kind, device, few[kind][1], figures) for kind, (device, figures) in more.items()]


def rate_between(kind: Kind, device: str, few: TrainingFigures, more: TrainingFigures) -> Rate:
    """The rate of the updates by which two trainings differ, which excludes what happens once.

    If the shorter one took longer, since other work slowed it, the rate is the longer one's, and a warning says so.
    """
    if more.world_size is None:
        raise LostInvariantError(f"the checkpoint of {kind} on {device} does not say on how many ranks it was trained")
    images, seconds = more.images - few.images, more.seconds - few.seconds
    if seconds <= 0:
        _logger.warning(
            "%s of %s updates on %s took as long as all %s, since other work slowed them: the rate includes what "
            "happens once; measure again on a quiet machine, or with --measure 100",
            few.updates,
            kind,
            device,
            more.updates,
        )
        images, seconds = more.images, more.seconds
    return Rate(
        kind=kind,
        device=device,
        world_size=more.world_size,
        images_per_second=images / seconds,
        checkpoints=0,
        peak_memory_bytes=more.peak_memory_bytes,
    )


def _train(run: PreparedRun, updates: int) -> dict[Kind, Measured]:
    """Do each kind of training of the run for so many updates; return device and figures by kind."""
    with tempfile.TemporaryDirectory(prefix="progdistill-measure-") as folder, contextlib.chdir(folder):
        store = open_store(str(Path(folder) / "store"))
        shortened = run.model_copy(update={"settings": _shortened(run.settings, store.uri, updates)})
        steps = RunSteps(shortened, "Measure", str(updates))
        checkpoint_id: str | None = steps.distill(steps.first_teacher(), 1)["id"]
        found: dict[Kind, Measured] = {}
        while checkpoint_id is not None:
            manifest = load_manifest(store, checkpoint_id)
            figures: Any = manifest.provenance.figures
            found[figures.job] = (manifest.provenance.device, figures)
            checkpoint_id = manifest.identity.parent
        return found


def _shortened(settings: Settings, store: str, updates: int) -> Settings:
    """Settings of one stage of few updates on this machine, after a base model of as few."""
    few: dict[str, Any] = {"updates": updates}
    stage = few | {"updates_at_steps": {}, "guidance_updates": None}
    return settings.model_copy(
        update={
            "store": store,
            "launcher": LauncherName.LOCAL,
            "ladder": settings.ladder[:2],
            "first_teacher": None,
            "base": settings.base.model_copy(update=few),
            "distill": settings.distill.model_copy(update=stage),
        }
    )
