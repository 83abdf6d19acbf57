"""Memory, time and cost of a run's trainings, from what was measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field, NonNegativeFloat, ValidationError

from progdistill.config.options import DEFAULTS_FILE, PRICES_TABLE, read_defaults_file
from progdistill.config.settings import Settings
from progdistill.errors import UsageError
from progdistill.models.config import LoraConfig
from progdistill.models_base import Frozen, first_problem
from progdistill.progress import readable_bytes
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.run.prepare import PreparedRun
from progdistill.run.ranks import device_of
from progdistill.run.rates import Kind, Rate, Work, newest_manifests, rates_from, work_of
from progdistill.store.open import open_store
from progdistill.training.accelerators import precision_for
from progdistill.training.config import Precision
from progdistill.training.memory import StateMemory, activation_bytes


class Prices(Frozen, allow_inf_nan=False):
    """Prices by device name, as checkpoints record it; "cpu" is one process on CPU cores."""

    currency: str = ""
    per_device_hour: dict[str, NonNegativeFloat] = Field(default={})


def read_prices(path: Path = Path(DEFAULTS_FILE)) -> Prices:
    """The table `[prices]` of a file: `currency`, and a price per hour for each device.

    Raises:
        UsageError: for a price that is not a number from 0.
    """
    table = read_defaults_file(path).get(PRICES_TABLE, {})
    if not isinstance(table, dict):
        raise UsageError(f"{path}: prices = {table!r}: write a table [prices], with a price for each device")
    per_device_hour = dict(table)
    currency = per_device_hour.pop("currency", "")
    try:
        return Prices(currency=currency, per_device_hour=per_device_hour)
    except ValidationError as error:
        problem = first_problem(error).removeprefix("per_device_hour.")
        raise UsageError(f"{path}: prices: {problem}") from None


class TimeEstimate(Frozen):
    """How long a run's trainings take on one kind of device, and their cost where the price is known."""

    device: str
    world_size: int
    """Of the stages of the ladder."""
    base_world_size: int | None = None
    """Of the base model's training, where it differs."""
    seconds: float
    device_hours: float
    cost: float | None
    currency: str
    checkpoints: int
    """Measured trainings that the estimate rests on; 0: those of `--measure`."""

    def describe(self) -> str:
        """The estimate in a line."""
        basis = f"{self.checkpoints} measured trainings" if self.checkpoints else "measured just now"
        cost = "" if self.cost is None else f", {self.cost:,.2f} {self.currency}".rstrip()
        base = "" if self.base_world_size is None else f"{self.base_world_size} (base model) and "
        return (
            f"  training on {base}{self.world_size} × {self.device}: {_duration(self.seconds)},"
            f" {self.device_hours:,.2g} device hours{cost} ({basis}; evaluation takes extra)"
        )


class Estimate(Frozen):
    """What a run takes if the store has none of its results."""

    memory: StateMemory
    """Per rank, in the largest training, in bytes; without activations.

    With `compute.parallelism=fsdp` a rank's share; with `auto` as much as without sharding.
    """
    activation_bytes: int | None = None
    """Per rank, estimated from the network's shapes; None: not asked for."""
    images_at_a_time: int = Field(gt=0, description="of a rank")
    peak_memory_bytes: dict[str, int]
    """Measured, by device: with activations."""
    times: tuple[TimeEstimate, ...]

    def describe(self) -> str:
        """The estimate in lines like those of the plan."""
        state = f"{readable_bytes(self.memory.total)} of training state ({self.memory})"
        memory = f"  memory per rank: {state}, and activations"
        if self.activation_bytes is not None:
            images = f"{self.images_at_a_time:,} images at a time"
            memory += f": {readable_bytes(self.activation_bytes)} for {images}, estimated from the network's shapes"
        peaks = [f"{readable_bytes(peak)} on {device}" for device, peak in self.peak_memory_bytes.items()]
        lines = [memory + (f"; measured in all: {', '.join(peaks)}" if peaks else "")]
        if not self.times:
            lines.append("  training time: unknown, the store has no training of such a network;")
            lines.append("    measure it on this machine with `progdistill plan --measure` and these options")
        lines += [time.describe() for time in self.times]
        if unpriced := sorted({time.device for time in self.times if time.cost is None}):
            lines.append(f'  cost: set prices per hour in progdistill.toml: [prices] "{unpriced[0]}" = …')
        return "\n".join(lines)


Rates = Mapping[tuple[Kind, str, int], Rate]
"""Rates by kind of training, device and world size."""


def estimate(run: PreparedRun, measured: Sequence[Rate] = (), activations: bool = False) -> Estimate:
    """Estimate a run.

    Args:
        run: the run.
        measured: rates that replace those of the store.
        activations: whether to estimate their memory, which imports torch and takes seconds.
    """
    manifests = newest_manifests(open_store(run.settings.store))
    return estimate_from(manifests, run, measured, activations)


def estimate_from(
    manifests: Sequence[CheckpointManifest],
    run: PreparedRun,
    measured: Sequence[Rate] = (),
    activations: bool = False,
    trained: int = 0,
) -> Estimate:
    """As `estimate`, from manifests of a store that were read before.

    Args:
        manifests: of trainings whose figures are known.
        run: the run.
        measured: rates that replace those of the manifests.
        activations: whether to estimate their memory, which imports torch and takes seconds.
        trained: checkpoints, from the top of the ladder down, that another run trains; some are left.
    """
    work = work_of(run.settings, run.parameters, run.adapter_parameters, trained)
    stored = [rate for part in work for rate in rates_from(manifests, run.settings.model, part, run.settings.compute)]
    rates = {(rate.kind, rate.device, rate.world_size): rate for rate in (*stored, *measured)}
    peaks: dict[str, int] = {}
    for rate in rates.values():
        if rate.peak_memory_bytes is not None:
            peaks[rate.device] = max(peaks.get(rate.device, 0), rate.peak_memory_bytes)
    # On each device: as many ranks as were measured, in all trainings alike; and the run's own world sizes.
    machines = {(device, (world_size,) * len(work)) for _, device, world_size in rates}
    machines |= {(device, tuple(part.world_size for part in work)) for _, device, _ in rates}
    prices = read_prices()
    times = [_time(work, rates, device, world_sizes, prices) for device, world_sizes in sorted(machines)]
    largest = max(work, key=lambda part: part.memory.total)
    share = largest.batch_size // largest.world_size
    images = min(share, run.settings.compute.micro_batch_size or share)
    return Estimate(
        memory=largest.memory,
        activation_bytes=_activations(run.settings, largest.kind, images) if activations else None,
        images_at_a_time=images,
        peak_memory_bytes=peaks,
        times=tuple(time for time in times if time is not None),
    )


def _activations(settings: Settings, kind: Kind, images: int) -> int:
    precision = precision_for(settings.compute, device_of(settings, kind))
    lora, adapter = settings.lora, None
    if kind != "train_base" and lora is not None and lora.rank is not None:
        adapter = LoraConfig(base="0" * 64, rank=lora.rank, alpha=lora.alpha or lora.rank, targets=lora.targets)
    return activation_bytes(
        settings.model.model_copy(update={"lora": adapter}),
        images,
        bfloat16=precision is Precision.BFLOAT16,
        checkpointing=settings.compute.activation_checkpointing,
        frozen_bfloat16=settings.distill.frozen_precision == "bfloat16",
    )


def _time(
    work: Sequence[Work], rates: Rates, device: str, world_sizes: Sequence[int], prices: Prices
) -> TimeEstimate | None:
    """On so many ranks for each part of the work; None where one was not measured on as many."""
    seconds, checkpoints = [], 0
    for part, world_size in zip(work, world_sizes, strict=True):
        rate = rates.get((part.kind, device, world_size))
        if rate is None:
            return None
        seconds.append(part.images / rate.images_per_second)
        checkpoints += rate.checkpoints
    hours = sum(size * taken for size, taken in zip(world_sizes, seconds, strict=True)) / 3600
    price = prices.per_device_hour.get(device)
    return TimeEstimate(
        device=device,
        world_size=world_sizes[-1],
        base_world_size=world_sizes[0] if world_sizes[0] != world_sizes[-1] else None,
        seconds=sum(seconds),
        device_hours=hours,
        cost=None if price is None else hours * price,
        currency=prices.currency,
        checkpoints=checkpoints,
    )


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.0f} seconds"
