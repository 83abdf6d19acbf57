"""Resource quantities: `500m`, `16Gi`, `2`."""

import re
from fractions import Fraction

_SUFFIX = {
    "": Fraction(1), "m": Fraction(1, 1000), "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9),
    "T": Fraction(10**12), "P": Fraction(10**15), "Ki": Fraction(2**10), "Mi": Fraction(2**20),
    "Gi": Fraction(2**30), "Ti": Fraction(2**40), "Pi": Fraction(2**50),
}  # fmt: skip
PATTERN = re.compile(r"^([+-]?[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")


def parse(text: str | int | float) -> Fraction:
    """The quantity in its base unit (cores, bytes, devices); ValueError if it is none."""
    found = PATTERN.match(str(text))
    if found is None:
        raise ValueError(f"no quantity: {text!r}")
    return Fraction(found[1]) * _SUFFIX[found[2] or ""]
