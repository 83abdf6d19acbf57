"""What a run has to train, and how fast such networks were trained before: the figures of checkpoints."""

from collections.abc import Iterable
from statistics import median
from typing import Literal, NamedTuple

from pydantic import JsonValue

from progdistill.config.settings import Settings
from progdistill.models.config import DenoiserConfig
from progdistill.models_base import Frozen
from progdistill.registry.checkpoint import CheckpointManifest, TrainingFigures, list_manifests
from progdistill.run.ranks import world_size_of
from progdistill.store.base import Store
from progdistill.store.layout import CHECKPOINTS
from progdistill.training.config import ComputeSettings, TrainingSettings
from progdistill.training.memory import StateMemory, state_memory

Kind = Literal["train_base", "guide", "distill"]
"""The kinds of training jobs."""

NEWEST = 100
"""Checkpoints looked at: enough for a median, and few to read from a bucket."""

WITHOUT_EFFECT = {"dropout", "label_dropout", "guidance_input", "num_classes"}
"""Fields of a network that hardly change its speed."""


class Work(NamedTuple):
    """All trainings of one kind in a run."""

    kind: Kind
    images: int
    batch_size: int
    world_size: int
    memory: StateMemory
    """Of a rank; with FSDP, its share."""
    adapter: bool
    """Whether what is trained is a LoRA."""


def work_of(settings: Settings, parameters: int, adapter_parameters: int | None = None, trained: int = 0) -> list[Work]:
    """The trainings of a run, in order, whether or not the store has their results.

    Args:
        settings: Of the run.
        parameters: Of the network.
        adapter_parameters: Of students that are LoRAs; None: they have all weights of their own.
        trained: Checkpoints, from the top of the ladder down, that another run trains.
    """
    found: list[Work] = []
    base, distill = settings.base, settings.distill
    frozen_bytes = 2 if distill.frozen_precision == "bfloat16" else 4

    def add(kind: Kind, training: TrainingSettings, updates: int) -> None:
        world_size = world_size_of(settings, kind)
        if kind == "train_base":
            memory = state_memory(training, parameters)
        elif adapter_parameters is None:
            memory = state_memory(training, parameters, parameters, frozen_bytes)
        else:
            memory = state_memory(training, adapter_parameters, parameters + adapter_parameters, frozen_bytes)
        if settings.compute.parallelism == "fsdp":
            memory = StateMemory(*(size // world_size for size in memory))
        images, adapter = updates * training.batch_size, kind != "train_base" and adapter_parameters is not None
        found.append(Work(kind, images, training.batch_size, world_size, memory, adapter))

    if settings.first_teacher is None and not trained:
        add("train_base", base, base.updates)
    if settings.has_guided_stage and not trained:
        add("guide", distill, distill.guidance_settings().updates)
    if stages := settings.ladder[max(1, trained) :]:
        add("distill", distill, sum(distill.for_stage(steps).updates for steps in stages))
    return found


class Rate(Frozen):
    """Training speed in images a second over all ranks, and the memory of one rank where it is known."""

    kind: Kind
    device: str
    world_size: int
    images_per_second: float
    checkpoints: int
    """Measured trainings that it rests on."""
    peak_memory_bytes: int | None


def newest_manifests(store: Store) -> list[CheckpointManifest]:
    """The manifests of a store's newest checkpoints, without unreadable ones."""
    stored = [entry for entry in store.list(CHECKPOINTS) if entry.key.endswith("/manifest.json")]
    newest = sorted(stored, key=lambda entry: entry.modified_at)[-NEWEST:]
    return list(list_manifests(store, unreadable=[], ids=(entry.key.split("/")[1] for entry in newest)))


def rates_from(
    manifests: Iterable[CheckpointManifest], model: DenoiserConfig, work: Work, compute: ComputeSettings
) -> list[Rate]:
    """Measured rates of a kind of work: of this network with this batch size and these compute settings.

    Returns:
        One rate for each device and world size, the median of its trainings.
    """
    wanted = _compute(compute.model_dump(mode="json")), _network(model.model_dump(mode="json"))
    groups: dict[tuple[str, int], list[TrainingFigures]] = {}
    for manifest in manifests:
        made, identity = manifest.provenance, manifest.identity
        figures = made.figures
        if figures is None or not figures.world_size or figures.job != work.kind or not figures.images_per_second:
            continue
        if (identity.base is not None) != work.adapter:
            continue
        if not figures.images_per_second > 0:  # of a foreign manifest
            continue
        found = _compute(made.configuration.get("compute")), _network(identity.architecture)
        if found == wanted and identity.training.get("batch_size") == work.batch_size:
            groups.setdefault((made.device, figures.world_size), []).append(figures)
    return [
        Rate(
            kind=work.kind,
            device=device,
            world_size=world_size,
            images_per_second=median(figures.images_per_second for figures in trainings),
            checkpoints=len(trainings),
            peak_memory_bytes=max((f.peak_memory_bytes for f in trainings if f.peak_memory_bytes), default=None),
        )
        for (device, world_size), trainings in sorted(groups.items())
    ]


def _compute(settings: JsonValue) -> JsonValue:
    """Compute settings without device and world size, by which rates are grouped."""
    if not isinstance(settings, dict):
        return None
    return {name: value for name, value in settings.items() if name not in ("device", "world_size")}


def _network(architecture: dict[str, JsonValue]) -> JsonValue:
    """What decides the speed of a network; None for an architecture of another form."""
    network = architecture.get("network")
    if not isinstance(network, dict):
        return None
    return {name: value for name, value in network.items() if name not in WITHOUT_EFFECT}
