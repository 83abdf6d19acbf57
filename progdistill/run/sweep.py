"""A sweep: several runs that differ in a few settings, measured alike, and checked before any of them starts."""

from collections import Counter
from collections.abc import Sequence

from pydantic import JsonValue

from progdistill.config.options import RUN_OPTIONS
from progdistill.config.overrides import Override
from progdistill.config.settings import check_paths
from progdistill.config.sweep import Point, SweepOptions, grid_of
from progdistill.errors import UsageError
from progdistill.evaluation.plan import no_images_reason
from progdistill.models_base import Frozen
from progdistill.report.sweep import setting_text
from progdistill.run.estimate import TimeEstimate, estimate_from
from progdistill.run.prepare import PreparedRun, prepare_run
from progdistill.run.rates import newest_manifests
from progdistill.run.trainings import training_ids
from progdistill.store.open import open_store


class SweepMember(Frozen):
    """One run of a sweep."""

    setting: dict[str, JsonValue]
    """What the sweep varies, by path, apart from the seed."""
    run: PreparedRun

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.run.settings.seed

    def __str__(self) -> str:
        return f"{setting_text(self.setting)}, seed {self.seed}"


class PreparedSweep(Frozen):
    """Runs whose every input has been found, whose distances compare, and what they have in common."""

    members: tuple[SweepMember, ...]
    trainings: tuple[tuple[str, ...], ...]
    """Of each member, the names of its checkpoints (`training_ids`), from the top of the ladder down."""

    def shared_rungs(self, member: int) -> int:
        """How many checkpoints, from the top of the ladder down, a member has in common with others; at least one."""
        times = Counter(name for names in self.trainings for name in names)
        return max(1, sum(times[name] > 1 for name in self.trainings[member]))

    def trained_before(self, member: int) -> int:
        """How many checkpoints, from the top of the ladder down, members before this one train."""
        earlier = {name for names in self.trainings[:member] for name in names}
        return sum(name in earlier for name in self.trainings[member])

    @property
    def families(self) -> list[list[int]]:
        """The members by their first checkpoint: what members share, they share within a family."""
        found: dict[str, list[int]] = {}
        for index, names in enumerate(self.trainings):
            found.setdefault(names[0], []).append(index)
        return list(found.values())

    @property
    def comparable_steps(self) -> tuple[int, ...]:
        """The sampling steps at which all members are measured, the most first."""
        most = self.members[0].run.settings.evaluation.max_sampling_steps
        ladders = [{steps for steps in member.run.settings.ladder if steps <= most} for member in self.members]
        return tuple(sorted(set.intersection(*ladders), reverse=True))

    @property
    def _names(self) -> set[str]:
        return {name for names in self.trainings for name in names}

    @property
    def _updates(self) -> int:
        """Parameter updates of all trainings, each counted once."""
        total = 0
        for index, member in enumerate(self.members):
            trained, trainings = self.trained_before(index), member.run.trainings
            at_the_top = len(trainings) - len(member.run.settings.ladder) + 1
            left = trainings[at_the_top + trained - 1 :] if trained else trainings
            total += sum(training.updates for training in left)
        return total

    def estimate(self) -> tuple[TimeEstimate, ...]:
        """Time and cost of all trainings, one after the other and each once, on each device that did such before."""
        manifests = newest_manifests(open_store(self.members[0].run.settings.store))
        found: list[dict[tuple[str, int], TimeEstimate]] = []
        for index, member in enumerate(self.members):
            trained = self.trained_before(index)
            if trained < len(member.run.settings.ladder):
                times = estimate_from(manifests, member.run, trained=trained).times
                found.append({(time.device, time.world_size): time for time in times})
        on_all = [machine for machine in found[0] if all(machine in times for times in found)]
        return tuple(_sum_of([times[machine] for times in found]) for machine in on_all)

    def describe(self) -> str:
        """The plan in a few lines for people, with its cost."""
        first, count = self.members[0].run, len(self.members)
        settings, names = len({setting_text(member.setting) for member in self.members}), len(self._names)
        times = self.estimate()
        return "\n".join(
            [
                f"Sweep: {count} runs of {first.dataset.name} ({settings} × {count // settings} seeds),"
                f" store {first.settings.store}",
                f"  {names} checkpoints, {self._updates:,} updates; what runs have in common is trained once",
                f"  compared at {', '.join(f'{steps:,}' for steps in self.comparable_steps)} sampling steps",
                *(f"  {index}: {member}" for index, member in enumerate(self.members)),
                *(time.describe() for time in times),
                *(["  training time: unknown, the store has no training of such networks"] if not times else []),
            ]
        )

    def facts(self) -> dict[str, object]:
        """The plan as JSON values."""
        return {
            "runs": [{"setting": member.setting, "seed": member.seed, **member.run.facts()} for member in self.members],
            "checkpoints": len(self._names),
            "updates": self._updates,
            "sampling_steps": list(self.comparable_steps),
            "estimate": [time.model_dump(mode="json") for time in self.estimate()],
        }


def prepare_sweep(options: SweepOptions) -> PreparedSweep:
    """Resolve and check every run of a sweep, before anything runs.

    Raises:
        UsageError: a setting is unknown, a run cannot be made, the grid is empty or too large, or the distances of
            its runs would not compare.
    """
    members = []
    for point in checked_grid(options):
        try:
            members.append(SweepMember(setting=point.setting, run=prepare_run(point.options)))
        except UsageError as error:
            raise UsageError(f"run {setting_text(point.setting)}, seed {point.seed}: {error}") from None
    sweep = PreparedSweep(members=tuple(members), trainings=tuple(training_ids(member.run) for member in members))
    _require_comparable(sweep)
    return sweep


def checked_grid(options: SweepOptions) -> list[Point]:
    """The runs of a sweep, whose settings exist; whether their values fit depends on preset and dataset.

    Raises:
        UsageError: see `grid_of`; or a setting is unknown.
    """
    points, names = grid_of(options), {option.name for option in RUN_OPTIONS}
    try:
        check_paths([Override(axis.path, axis.values[0]) for axis in options.over if axis.path not in names])
    except UsageError as error:
        raise UsageError(str(error).replace("--set", "--over", 1)) from None
    return points


def _require_comparable(sweep: PreparedSweep) -> None:
    """Refuse runs that are not measured alike, or at no common number of sampling steps."""
    first = sweep.members[0]
    reason = no_images_reason(first.run.settings.model, first.run.dataset)
    if reason is not None:
        raise UsageError(f"a sweep compares distances to real images, but {reason}: start its runs one by one")
    for member in sweep.members:
        if member.run.dataset.fingerprint != first.run.dataset.fingerprint:
            raise UsageError(f"{first} and {member} have different datasets: their distances do not compare")
        wanted, found = (dict(m.run.settings.measured_evaluation) for m in (first, member))
        for name in wanted:
            if found[name] != wanted[name]:
                raise UsageError(
                    f"{first} and {member} differ in evaluation.{name} ({wanted[name]} and {found[name]}), so that"
                    " their distances do not compare: measure all runs of a sweep alike, with --set"
                    f" evaluation.{name}=VALUE"
                )
    if not sweep.comparable_steps:
        raise UsageError("the runs of the sweep have no number of sampling steps in common: choose other ladders")


def _sum_of(times: Sequence[TimeEstimate]) -> TimeEstimate:
    costs = [time.cost for time in times if time.cost is not None]
    return times[0].model_copy(
        update={
            "seconds": sum(time.seconds for time in times),
            "device_hours": sum(time.device_hours for time in times),
            "cost": sum(costs) if len(costs) == len(times) else None,
            "checkpoints": max(time.checkpoints for time in times),
        }
    )
