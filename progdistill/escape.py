"""Names and messages from elsewhere, made harmless for the place they are written to."""

import re
from typing import Final

_HIDDEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
)
"""Control characters (escape sequences begin with one), those that reorder text, and what UTF-8 or XML cannot hold."""

_MARKUP: Final = re.compile(r"[\\`*\[\]|~$<>&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def printable(text: str) -> str:
    """Lines for a terminal, a log or a page: what a terminal would act on is shown as `\\x1b`."""
    return _HIDDEN.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python reads a byte of a file name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return found[0].encode("unicode_escape").decode()


def one_line(text: str) -> str:
    """A name within a line: as `printable`, with line ends and tabs shown as `\\n` and `\\t` too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def markdown(text: str) -> str:
    """A name within a line of Markdown, in which it means nothing, as HTML neither."""
    entities = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
    return _MARKUP.sub(lambda found: entities.get(found[0], f"\\{found[0]}"), one_line(text))
