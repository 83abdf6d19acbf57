"""Grids of times: at which times a network is asked in N sampling steps. No torch.

A grid's times fall from the noisy end to 0. The times of N steps are every second one of 2N steps, so a student's
grid is part of its teacher's.
"""

import math
from typing import Annotated, Literal

from pydantic import Field

from progdistill.diffusion.noise_schedules import DiscreteSchedule, EDMSchedule, NoiseSchedule
from progdistill.errors import UsageError
from progdistill.models_base import Frozen

Times = tuple[float, ...]
"""steps + 1 falling times in [0, 1]; the last one is 0. Where the first is below 1, pure noise stands for z there."""


class AngleGrid(Frozen):
    """Even steps of the angle: t = i/N."""

    kind: Literal["angle"] = "angle"

    def times(self, steps: int) -> Times:
        """The times of `steps` sampling steps."""
        return (*(1 - step / steps for step in range(steps)), 0.0)

    def __str__(self) -> str:
        return "even steps of the angle"


class TrailingGrid(Frozen):
    """Even steps of the index of a discrete schedule: k = T·i/N − 1, rounded as diffusers' spacing "trailing"."""

    kind: Literal["trailing"] = "trailing"
    schedule: DiscreteSchedule

    def times(self, steps: int) -> Times:
        """The times of `steps` sampling steps.

        Raises:
            UsageError: The schedule has fewer indices than that.
        """
        count = self.schedule.steps
        if steps > count:
            raise UsageError(
                f"{steps} sampling steps on a grid of {count} indices: choose at most {count} steps, or the grid angle"
            )
        log_snr = self.schedule.log_snr()
        indices = (round(count * i / steps) - 1 for i in range(steps, 0, -1))
        return (*(_time_of_ratio(math.exp(-log_snr[index] / 2)) for index in indices), 0.0)

    def __str__(self) -> str:
        return f"even steps of {self.schedule.steps} indices"


class FlowGrid(Frozen, allow_inf_nan=False):
    """Steps of a flow model: τ = s·r/(1 + (s − 1)·r) with r = i/N and the shift s; τ = σ/(α + σ)."""

    kind: Literal["flow"] = "flow"
    shift: float = Field(default=1.0, gt=0)

    def times(self, steps: int) -> Times:
        """The times of `steps` sampling steps."""
        shifted = (self.shift * i / (steps + (self.shift - 1) * i) for i in range(steps, 0, -1))
        return (*(_time(tau, 1 - tau) for tau in shifted), 0.0)

    def __str__(self) -> str:
        return f"even steps of the flow's time, shift {self.shift:g}"


class KarrasGrid(Frozen, allow_inf_nan=False):
    """M noise levels s with even s^(1/ρ) from sigma_max to sigma_min, then 0 (Karras et al. 2022, eq. 5).

    N steps use every (M/N)-th level.
    """

    kind: Literal["karras"] = "karras"
    points: int | None = Field(default=None, gt=0, description="M; None: as many as there are sampling steps")
    sigma_min: float = Field(default=0.002, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)
    rho: float = Field(default=7.0, gt=0)

    def times(self, steps: int) -> Times:
        """The times of `steps` sampling steps.

        Raises:
            UsageError: The number of levels is no multiple of `steps`.
        """
        points = self.points or steps
        if points % steps:
            raise UsageError(f"{steps} sampling steps on a grid of {points} noise levels: choose a divisor of {points}")
        highest, lowest = (sigma ** (1 / self.rho) for sigma in (self.sigma_max, self.sigma_min))
        fractions = (place / max(points - 1, 1) for place in range(0, points, points // steps))
        return (*(_time_of_ratio((highest + u * (lowest - highest)) ** self.rho) for u in fractions), 0.0)

    def __str__(self) -> str:
        count = "" if self.points is None else f"{self.points} "
        return f"{count}noise levels from {self.sigma_max:g} to {self.sigma_min:g}, even with ρ = {self.rho:g}"


Grid = Annotated[AngleGrid | TrailingGrid | FlowGrid | KarrasGrid, Field(discriminator="kind")]


def _time_of_ratio(ratio: float) -> float:
    """The time at which σ/α = ratio."""
    return _time(ratio, 1.0) if ratio < math.inf else 1.0


def _time(sigma: float, alpha: float) -> float:
    """The time of a state with these coefficients, whatever their common factor."""
    return math.atan2(sigma, alpha) / (math.pi / 2)


def grid_named(name: str, schedule: NoiseSchedule | None, steps: int) -> Grid:
    """The grid that a user names: `angle`, `trailing`, `flow`, `flow:SHIFT` or `karras`.

    Args:
        name: What the user typed.
        schedule: Of the network: `trailing` and `karras` take their range from it.
        steps: Sampling steps at the top of the ladder: the number of levels of `karras`.

    Raises:
        UsageError: The name is unknown, or the schedule is of another family.
    """
    kind, _, argument = name.partition(":")
    match kind, argument:
        case "angle", "":
            return AngleGrid()
        case "flow", _:
            return FlowGrid(shift=_shift(name, argument))
        case "trailing", "":
            if not isinstance(schedule, DiscreteSchedule):
                raise UsageError("grid 'trailing' is for networks with a discrete noise schedule: choose angle or flow")
            return TrailingGrid(schedule=schedule)
        case "karras", "":
            edm = schedule if isinstance(schedule, EDMSchedule) else EDMSchedule()
            return KarrasGrid(points=steps, sigma_min=edm.sigma_min, sigma_max=edm.sigma_max)
        case _:
            raise UsageError(
                f"unknown grid {name!r}: choose angle, trailing, flow, flow:SHIFT (such as flow:3) or karras"
            )


def _shift(name: str, text: str) -> float:
    try:
        return FlowGrid(shift=float(text) if text else 1.0).shift
    except ValueError:
        raise UsageError(f"grid {name!r}: {text!r} is not a shift, a number above 0 such as flow:3") from None


def for_ladder(grid: Grid, steps: int) -> Grid:
    """The grid that a ladder keeps from its top, `steps`, down."""
    if isinstance(grid, KarrasGrid) and grid.points is None:
        return grid.model_copy(update={"points": steps})
    return grid
