"""The ladder of sampling steps that progressive distillation climbs down: 8192 → 4096 → … → 1."""

from itertools import pairwise

from progdistill.errors import UsageError

MAX_SAMPLING_STEPS = 2**20
_SYNTAX = "write START:END (halving, such as 64:1), START:END:FACTOR, or a list such as 64,16,4,1"


def parse_ladder(text: str) -> tuple[int, ...]:
    """Turn `START:END[:FACTOR]` or `A,B,C` into strictly falling powers of two.

    The first rung is the teacher's number of sampling steps, each further one a student's. `FACTOR` is 2, as
    in the paper's procedure, or 4 (its Appendix I).

    Raises UsageError for anything that is not a falling sequence of two or more powers of two from 1 to 2^20.
    """
    if "," in text:
        rungs = tuple(_rung(part, text) for part in text.split(","))
    else:
        parts = text.split(":")
        if len(parts) not in (2, 3):
            raise UsageError(f"ladder {text!r} has {len(parts)} parts; {_SYNTAX}")
        start, end = _rung(parts[0], text), _rung(parts[1], text)
        factor = _rung(parts[2], text) if len(parts) == 3 else 2
        rungs = _descend(start, end, factor, text)
    if len(rungs) < 2:
        raise UsageError(
            f"ladder {text!r} has no stage: its teacher needs a student of fewer steps; {_SYNTAX}"
        )
    for higher, lower in pairwise(rungs):
        if lower >= higher:
            raise UsageError(
                f"ladder {text!r} goes up from {higher} to {lower} sampling steps;"
                f" each student has fewer steps than its teacher: {_SYNTAX}"
            )
    return rungs


def _rung(part: str, text: str) -> int:
    try:
        steps = int(part)
    except ValueError:
        raise UsageError(f"ladder {text!r}: {part!r} is not a number of sampling steps; {_SYNTAX}") from None
    if not 1 <= steps <= MAX_SAMPLING_STEPS or steps & (steps - 1):
        raise UsageError(
            f"ladder {text!r}: {steps} is not a power of two from 1 to {MAX_SAMPLING_STEPS}; {_SYNTAX}"
        )
    return steps


def _descend(start: int, end: int, factor: int, text: str) -> tuple[int, ...]:
    if factor not in (2, 4):
        raise UsageError(
            f"ladder {text!r}: the factor is {factor}, but a student skips 2 or 4 steps; {_SYNTAX}"
        )
    if end > start:
        raise UsageError(f"ladder {text!r} goes up from {start} to {end} sampling steps; {_SYNTAX}")
    rungs = [start]
    while rungs[-1] > end:
        rungs.append(rungs[-1] // factor)
    if rungs[-1] != end:
        raise UsageError(f"ladder {text!r}: {start} is not {end} times a power of {factor}; {_SYNTAX}")
    return tuple(rungs)


def format_ladder(rungs: tuple[int, ...]) -> str:
    """Render rungs for people: `64 → 32 → … → 1`."""
    shown = [str(rung) for rung in rungs]
    if len(shown) > 6:
        shown = [*shown[:3], "…", *shown[-2:]]
    return " → ".join(shown)
