"""Classes that are known by their numbers alone."""

from typing import Final

from progdistill.errors import UsageError

MOST_CLASSES: Final = 1_000_000
"""Beyond it, numbers are ids of something: a dataset keeps a name for each number up to the highest."""


def require_class_number(where: str, number: int) -> None:
    """Raise UsageError for a number that is too high for a class."""
    if number >= MOST_CLASSES:
        raise UsageError(
            f"{where} has class number {number}, above the highest that can be used, {MOST_CLASSES - 1}:"
            " number the classes 0, 1, 2, …"
        )


def class_names_up_to(highest: int) -> tuple[str, ...]:
    """The numbers 0 to `highest` as names."""
    return tuple(str(number) for number in range(highest + 1))
