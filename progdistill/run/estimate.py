"""Memory, time and cost of a run's trainings, from what was measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field, NonNegativeFloat, ValidationError

from progdistill.config.options import DEFAULTS_FILE, PRICES_TABLE, read_defaults_file
from progdistill.errors import UsageError
from progdistill.models_base import Frozen, first_problem
from progdistill.run.prepare import PreparedRun
from progdistill.run.rates import Kind, Rate, Work, newest_manifests, rates_from, work_of
from progdistill.store.open import open_store


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


class Estimate(Frozen):
    """What a run takes if the store has none of its results."""

    state_bytes: int
    """Per rank, in the largest training: weights, gradients, optimizer, average, teacher; no activations.

    With `compute.parallelism=fsdp` a rank's share; with `auto` as much as without sharding.
    """
    peak_memory_bytes: dict[str, int]
    """Measured, by device: with activations."""
    times: tuple[TimeEstimate, ...]

    def describe(self) -> str:
        """The estimate in lines like those of the plan."""
        memory = f"  memory per rank: {_bytes(self.state_bytes)} of training state, and activations"
        peaks = [f"{_bytes(peak)} on {device}" for device, peak in self.peak_memory_bytes.items()]
        lines = [memory + (f"; measured in all: {', '.join(peaks)}" if peaks else "")]
        if not self.times:
            lines.append("  training time: unknown, the store has no training of such a network;")
            lines.append("    measure it on this machine with `progdistill plan --measure` and these options")
        lines += [_time_line(time) for time in self.times]
        if unpriced := sorted({time.device for time in self.times if time.cost is None}):
            lines.append(f'  cost: set prices per hour in progdistill.toml: [prices] "{unpriced[0]}" = …')
        return "\n".join(lines)


Rates = Mapping[tuple[Kind, str, int], Rate]
"""Rates by kind of training, device and world size."""


def estimate(run: PreparedRun, measured: Sequence[Rate] = ()) -> Estimate:
    """Estimate a run.

    Args:
        run: the run.
        measured: rates that replace those of the store.
    """
    work = work_of(run.settings, run.parameters)
    manifests = newest_manifests(open_store(run.settings.store))
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
    return Estimate(
        state_bytes=max(part.state_bytes for part in work),
        peak_memory_bytes=peaks,
        times=tuple(time for time in times if time is not None),
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


def _time_line(time: TimeEstimate) -> str:
    basis = f"{time.checkpoints} measured trainings" if time.checkpoints else "measured just now"
    cost = "" if time.cost is None else f", {time.cost:,.2f} {time.currency}".rstrip()
    base = "" if time.base_world_size is None else f"{time.base_world_size} (base model) and "
    return (
        f"  training on {base}{time.world_size} × {time.device}: {_duration(time.seconds)},"
        f" {time.device_hours:,.2g} device hours{cost} ({basis}; evaluation takes extra)"
    )


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.0f} seconds"
