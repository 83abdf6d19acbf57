"""What a source has that the dataset does not use: named, with the reason, and counted."""

from typing import Final

from progdistill.escape import one_line

NAMED: Final = 3
"""How many of each kind are named; the rest are counted."""


class Unused:
    """An account of files, members, arrays and columns that are not used, by reason."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, list[str]]] = {}
        self._once: set[tuple[str, str]] = set()

    def add(self, reason: str, name: str, *, once: bool = False) -> None:
        """Count one more; the first few are named. With `once`, a name counts once however often it comes."""
        if once:
            if (reason, name) in self._once:
                return
            self._once.add((reason, name))
        count, names = self._found.get(reason, (0, []))
        if count < NAMED:
            names.append(one_line(name))
        self._found[reason] = count + 1, names

    def lines(self) -> tuple[str, ...]:
        """One line a reason, such as `hidden (2): .ipynb_checkpoints, a/._b.png`."""
        return tuple(
            f"{reason} ({count:,}): {', '.join(names)}{', …' if count > len(names) else ''}"
            for reason, (count, names) in self._found.items()
        )
