"""The ladder of sampling steps that distillation descends: 8192 → 4096 → … → 1."""

from itertools import pairwise

from progdistill.diffusion.names import ObjectiveName
from progdistill.errors import UsageError

MAX_SAMPLING_STEPS = 2**20
_SYNTAX = (
    "write START:END (halving, such as 64:1), START:END:FACTOR, or a list such as 64,16,4,1, whose students may have"
    " an objective, such as 64,8:tract,1:tract"
)


def parse_objectives(text: str) -> tuple[str, dict[int, ObjectiveName]]:
    """Take the objectives out of a ladder: `64,8:tract,1` is `64,8,1` with TRACT at 8 steps.

    Returns:
        The ladder for `parse_ladder`, and the objectives of students by sampling steps.

    Raises:
        UsageError: An objective is unknown.
    """
    rungs, objectives = [], dict[int, ObjectiveName]()
    for place, part in enumerate(text.split(",")):
        rung, _, name = part.rpartition(":")
        if place == 0 or not rung or name.strip().isdecimal():
            rungs.append(part)
            continue
        known = [str(objective) for objective in ObjectiveName]
        if name.strip() not in known:
            raise UsageError(f"ladder {text!r}: unknown objective {name!r}; there are {', '.join(known)}; {_SYNTAX}")
        objectives[_steps(rung, text)] = ObjectiveName(name.strip())
        rungs.append(rung)
    return ",".join(rungs), objectives


def parse_ladder(text: str) -> tuple[int, ...]:
    """Parse `START:END[:FACTOR]` or `A,B,C`.

    Args:
        text: FACTOR is 2 (the default, as in the paper's procedure) or 4 (its Appendix I).

    Returns:
        Sampling steps, strictly falling powers of two: of the teacher, then of each student.

    Raises:
        UsageError: for anything but two or more falling powers of two from 1 to 2^20.
    """
    parts = [_steps(part, text) for part in text.replace(",", ":").split(":")]
    if "," in text:
        rungs = parts
    elif len(parts) in (2, 3):
        rungs = _descend(*parts, text=text)
    else:
        raise UsageError(f"ladder {text!r} has {len(parts)} parts; {_SYNTAX}")
    if len(rungs) < 2:
        raise UsageError(f"ladder {text!r} has no student of fewer steps than the teacher; {_SYNTAX}")
    for higher, lower in pairwise(rungs):
        if lower >= higher:
            raise UsageError(f"ladder {text!r} goes up from {higher} to {lower} sampling steps; {_SYNTAX}")
    return tuple(rungs)


def _steps(part: str, text: str) -> int:
    if not part.strip().isdecimal() or len(part) > 100:
        raise UsageError(f"ladder {text!r}: {part!r} is not a number of sampling steps; {_SYNTAX}")
    steps = int(part)
    if not 1 <= steps <= MAX_SAMPLING_STEPS or steps & (steps - 1):
        raise UsageError(f"ladder {text!r}: {steps} is not a power of two from 1 to {MAX_SAMPLING_STEPS}; {_SYNTAX}")
    return steps


def _descend(start: int, end: int, factor: int = 2, *, text: str) -> list[int]:
    if factor not in (2, 4):
        raise UsageError(f"ladder {text!r}: the factor is {factor}, not 2 or 4; {_SYNTAX}")
    if end > start:
        return [start, end]
    rungs = [start]
    while rungs[-1] > end:
        rungs.append(rungs[-1] // factor)
    if rungs[-1] != end:
        raise UsageError(f"ladder {text!r}: {start} is not {end} times a power of {factor}; {_SYNTAX}")
    return rungs


def ladder_text(rungs: tuple[int, ...]) -> str:
    """Write rungs as `--ladder` takes them, the short way: `64:1`, else `64,16,4`."""
    halving = f"{rungs[0]}:{rungs[-1]}"
    return halving if parse_ladder(halving) == rungs else ",".join(map(str, rungs))


def format_ladder(rungs: tuple[int, ...]) -> str:
    """Render rungs for people: `64 → 32 → … → 1`."""
    shown = [str(rung) for rung in rungs]
    if len(shown) > 6:
        shown = [*shown[:3], "…", *shown[-2:]]
    return " → ".join(shown)
