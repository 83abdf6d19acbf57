"""`plan --measure`: how fast this machine trains a run, by a few updates of its jobs in a temporary store."""

import contextlib
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
    rates = []
    for kind, (device, figures) in more.items():
        seconds = figures.seconds - few[kind][1].seconds
        if seconds <= 0 or figures.world_size is None:
            raise LostInvariantError(
                f"{updates} more updates took no longer ({kind} on {device}): measure with more updates, --measure 100"
            )
        rate = Rate(
            kind=kind,
            device=device,
            world_size=figures.world_size,
            images_per_second=(figures.images - few[kind][1].images) / seconds,
            checkpoints=0,
            peak_memory_bytes=figures.peak_memory_bytes,
        )
        rates.append(rate)
    return rates


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
