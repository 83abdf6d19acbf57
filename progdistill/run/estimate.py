"""Memory, time and cost of a run's trainings; what nobody has measured is not guessed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeFloat, ValidationError

from progdistill.config.options import DEFAULTS_FILE, PRICES_TABLE, read_defaults_file
from progdistill.errors import UsageError
from progdistill.models_base import Frozen
from progdistill.run.prepare import PreparedRun
from progdistill.run.rates import Kind, Rate, Work, newest_manifests, rates_from, work_of
from progdistill.store.open import open_store


class Prices(Frozen, allow_inf_nan=False):
    """Prices by the name of the device, as checkpoints record it; "cpu" is one process on CPU cores."""

    currency: str = ""
    per_device_hour: dict[str, NonNegativeFloat] = Field(default={})


def read_prices(path: Path = Path(DEFAULTS_FILE)) -> Prices:
    """The table `[prices]` of a file: `currency`, and a price for each device; empty where there is none."""
    found = read_defaults_file(path).get(PRICES_TABLE, {})
    if not isinstance(found, dict):
        raise UsageError(f"{path}: prices = {found!r}: write a table [prices], with a price for each device")
    table: dict[str, Any] = dict(found)
    currency = table.pop("currency", "")
    try:
        return Prices(currency=currency, per_device_hour=table)
    except ValidationError as error:
        first = error.errors()[0]
        name = first["loc"][-1]
        raise UsageError(f"{path}: prices: {name} = {first['input']!r}: {first['msg']}") from None


class TimeEstimate(Frozen):
    """How long a run's trainings take on one kind of device, and what that costs where its price is known."""

    device: str
    world_size: int
    """Of the stages of the ladder."""
    base_ranks: int | None = None
    """Of the base model's training, where that has another number."""
    seconds: float
    device_hours: float
    cost: float | None
    currency: str
    checkpoints: int
    """Measured trainings that the estimate rests on."""


class Estimate(Frozen):
    """What a run will take, as far as it is known; it does not look for jobs that are done already."""

    state_bytes: int
    """Of the largest training, a rank: weights, gradients, optimizer, average, teacher; no activations.

    With `compute.parallelism=fsdp` a rank's share; where that is left open, as much as without it.
    """
    peak_memory_bytes: dict[str, int]
    """Measured, by device: with activations."""
    times: tuple[TimeEstimate, ...]

    def facts(self) -> dict[str, Any]:
        """For a program."""
        return self.model_dump(mode="json")

    def describe(self) -> str:
        """For people, in lines like those of the plan."""
        memory = f"  memory of a rank: {_bytes(self.state_bytes)} of training state, and activations"
        peaks = [f"{_bytes(peak)} on {device}" for device, peak in self.peak_memory_bytes.items()]
        lines = [memory + (f"; measured in all: {', '.join(peaks)}" if peaks else "")]
        if not self.times:
            lines.append("  training time: unknown, nobody has trained such a network with this store;")
            lines.append("    measure it on this machine with `progdistill plan --measure` and these options")
        lines += [_time_line(time) for time in self.times]
        if unpriced := sorted({time.device for time in self.times if time.cost is None}):
            lines.append(f'  cost: set prices an hour in progdistill.toml: [prices] "{unpriced[0]}" = …')
        return "\n".join(lines)


def estimate(run: PreparedRun, extra: Sequence[Rate] = ()) -> Estimate:
    """What `run` takes by what its store has measured, and by `extra`, which comes before that."""
    model = run.settings.model
    work = work_of(run.settings, run.parameters)
    manifests = newest_manifests(open_store(run.settings.store))
    compute = run.settings.compute
    found = [one for w in work for one in rates_from(manifests, model, w, compute)]
    rates = {(one.kind, one.device, one.world_size): one for one in found}
    rates |= {(one.kind, one.device, one.world_size): one for one in extra}
    peaks: dict[str, int] = {}
    for rate in rates.values():
        if rate.peak_memory_bytes is not None:
            peaks[rate.device] = max(peaks.get(rate.device, 0), rate.peak_memory_bytes)
    evenly = [(device, [world_size] * len(work)) for device, world_size in {(d, r) for _, d, r in rates}]
    as_set = [(device, [one.world_size for one in work]) for device in {d for _, d, _ in rates}]
    machines = sorted(evenly + [one for one in as_set if one not in evenly])
    prices = read_prices()
    times = [_time(work, rates, device, world_size, prices) for device, world_size in machines]
    return Estimate(
        state_bytes=max(one.state_bytes for one in work),
        peak_memory_bytes=peaks,
        times=tuple(time for time in times if time is not None),
    )


def _time(
    work: list[Work],
    rates: dict[tuple[Kind, str, int], Rate],
    device: str,
    world_size: list[int],
    prices: Prices,
) -> TimeEstimate | None:
    """On so many ranks for each kind of the work; None where one kind was never measured on as many."""
    used = [rates.get((one.kind, device, number)) for one, number in zip(work, world_size, strict=True)]
    known = [rate for rate in used if rate is not None]
    if len(known) < len(work):
        return None
    seconds = [one.images / rate.images_per_second for one, rate in zip(work, known, strict=True)]
    hours = sum(number * each for number, each in zip(world_size, seconds, strict=True)) / 3600
    price = prices.per_device_hour.get(device)
    return TimeEstimate(
        device=device,
        world_size=world_size[-1],
        base_ranks=world_size[0] if world_size[0] != world_size[-1] else None,
        seconds=sum(seconds),
        device_hours=hours,
        cost=None if price is None else hours * price,
        currency=prices.currency,
        checkpoints=sum(rate.checkpoints for rate in known),
    )


def _time_line(time: TimeEstimate) -> str:
    basis = f"{time.checkpoints} measured trainings" if time.checkpoints else "measured just now"
    cost = "" if time.cost is None else f", {time.cost:,.2f} {time.currency}".rstrip()
    base = "" if time.base_ranks is None else f"{time.base_ranks} (base model) and "
    return (
        f"  training on {base}{time.world_size} × {time.device}: {_duration(time.seconds)},"
        f" {time.device_hours:,.2g} device hours{cost} ({basis}; evaluation comes on top)"
    )


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.0f} seconds"
