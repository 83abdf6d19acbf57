"""How fast networks of one shape have been trained before, from the figures beside a store's checkpoints."""

from collections.abc import Iterable
from statistics import median
from typing import Any, Literal, NamedTuple

from pydantic import JsonValue

from progdistill.config.settings import Settings
from progdistill.models.config import DenoiserConfig
from progdistill.models_base import Frozen
from progdistill.registry.checkpoint import CheckpointManifest, load_manifests
from progdistill.run.prepare import world_size_of
from progdistill.store.base import Store
from progdistill.store.layout import CHECKPOINTS
from progdistill.training.config import ComputeSettings, TrainingSettings

Kind = Literal["train_base", "guide", "distill"]
"""The kinds of training jobs."""

FLOAT_BYTES = 4


class Work(NamedTuple):
    """All trainings of one kind in a run."""

    kind: Kind
    images: int
    batch_size: int
    world_size: int
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
        world_size = world_size_of(settings, kind)
        sharing = world_size if settings.compute.parallelism == "fsdp" else 1
        state_bytes = copies * FLOAT_BYTES * parameters // sharing
        found.append(Work(kind, updates * training.batch_size, training.batch_size, world_size, state_bytes))

    if settings.first_teacher is None:
        add("train_base", base, base.updates)
    if settings.has_guided_stage:
        add("guide", distill, distill.guidance_settings().updates)
    add("distill", distill, sum(distill.for_stage(steps).updates for steps in settings.ladder[1:]))
    return found


NEWEST = 100
"""Checkpoints looked at: enough for a median, and few to read from a bucket."""

ALIKE = {"dropout", "label_dropout", "guidance_input", "num_classes"}
"""Fields of a network that hardly change how long it takes."""


_HOW = ComputeSettings().model_dump(mode="json", exclude={"device", "world_size"})
"""Compute settings as they are by default, for checkpoints that were made before there were some of them."""


class Rate(Frozen):
    """Images a second in training, over all ranks; `peak_memory_bytes` of one rank, where it is known."""

    kind: Kind
    device: str
    world_size: int
    images_per_second: float
    checkpoints: int
    peak_memory_bytes: int | None


def newest_manifests(store: Store) -> list[CheckpointManifest]:
    """The manifests of the newest checkpoints of a store, of those that this version can read."""
    stored = [one for one in store.list(CHECKPOINTS) if one.key.endswith("/manifest.json")]
    newest = sorted(stored, key=lambda one: one.modified_at)[-NEWEST:]
    return list(load_manifests(store, (one.key.split("/")[1] for one in newest), unreadable=[]))


def rates_from(
    manifests: Iterable[CheckpointManifest], model: DenoiserConfig, work: Work, compute: ComputeSettings
) -> list[Rate]:
    """The rates of that kind of work, of this network with this batch, one a device and number of ranks.

    Only trainings under the same compute settings count: on the same device what they leave open was decided
    alike (precision, compilation, sharing of weights).
    """
    groups: dict[tuple[str, int], list[CheckpointManifest]] = {}
    for manifest in manifests:
        figures = manifest.provenance.figures
        if figures is None or figures.world_size is None or figures.job != work.kind:
            continue
        same_batch = manifest.identity.training.get("batch_size") == work.batch_size
        if _how(manifest.provenance.configuration.get("compute")) != _how(compute.model_dump(mode="json")):
            continue
        if same_batch and _shape(manifest.identity.architecture) == _shape(model.model_dump(mode="json")):
            groups.setdefault((manifest.provenance.device, figures.world_size), []).append(manifest)
    return [
        _rate(work.kind, device, world_size, alike) for (device, world_size), alike in sorted(groups.items())
    ]


def _rate(kind: Kind, device: str, world_size: int, alike: list[CheckpointManifest]) -> Rate:
    figures = [one.provenance.figures for one in alike if one.provenance.figures is not None]
    peaks = [one.peak_memory_bytes for one in figures if one.peak_memory_bytes is not None]
    return Rate(
        kind=kind,
        device=device,
        world_size=world_size,
        images_per_second=median(one.images_per_second for one in figures),
        checkpoints=len(figures),
        peak_memory_bytes=max(peaks, default=None),
    )


def _how(compute: JsonValue) -> dict[str, Any]:
    """Compute settings but for the device and the number of ranks, which are named apart."""
    known = {k: v for k, v in compute.items() if k in _HOW} if isinstance(compute, dict) else {}
    return {**_HOW, **known}


def _shape(architecture: dict[str, Any]) -> dict[str, Any]:
    network = architecture.get("network")
    return {k: v for k, v in network.items() if k not in ALIKE} if isinstance(network, dict) else architecture
