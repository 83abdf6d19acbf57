"""Which split a file is of: one rule for folders, archives, Parquet files and arrays.

A folder that is called as a split, in any case, decides for all below it; the outermost one counts. Elsewhere a split's
word in the name of a folder, of the file, or of the archive that holds it decides, as on the Hugging Face Hub
(https://huggingface.co/docs/hub/datasets-file-names-and-splits). A file whose split cannot be told is asked about.
"""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from progdistill.data.source import readable_name
from progdistill.errors import UsageError

SPLIT_WORDS: Final = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}

LEFT_OUT: Final = "none"
"""In place of a split: the files are not used."""

Words = frozenset[str]
"""The splits whose words are in a name."""


class Told(NamedTuple):
    """What names tell of a file's split: None if nothing. The first `depth` folders say it, and are no classes."""

    split: str | None
    depth: int = 0


class UnclearSplitError(Exception):
    """Names contradict each other. The argument says which splits they tell."""


class SplitChoice(NamedTuple):
    """`--split NAME=PATTERN`: files whose path matches are of that split."""

    split: str
    pattern: str

    @property
    def depth(self) -> int:
        """The number of folders that the pattern names; -1 for all files: only innermost folders may be classes."""
        if self.pattern == "*":
            return -1
        return sum(not set(part) & set("*?[") for part in self.pattern.split("/")[:-1])


def parse_choices(options: Sequence[str]) -> tuple[SplitChoice, ...]:
    """Read `NAME=PATTERN`, or `NAME` for every file. Raises UsageError for another name."""
    choices = []
    for option in options:
        name, equals, pattern = option.partition("=")
        split = LEFT_OUT if name == LEFT_OUT else SPLIT_WORDS.get(name.lower())
        if split is None or (equals and not pattern):
            known = f"train, validation, test or {LEFT_OUT}"
            raise UsageError(f"--split {option}: give {known}, alone or as NAME=PATTERN of file paths")
        choices.append(SplitChoice(split, pattern if equals else "*"))
    return tuple(choices)


def chosen(choices: Iterable[SplitChoice], path: str) -> Told | None:
    """What the first choice with a matching pattern says of a path below the source; None if none matches."""
    for choice in choices:
        if fnmatchcase(path, choice.pattern) or fnmatchcase(path, f"{choice.pattern.rstrip('/')}/*"):
            return Told(choice.split, choice.depth)
    return None


def words_of(name: str) -> Words:
    """The splits whose words are in a name: `cifar10-train` and `TrainA` have one, `trained` none."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return frozenset(SPLIT_WORDS[word] for word in re.findall(r"[^\W\d_]+", spaced.lower()) if word in SPLIT_WORDS)


def split_of(folders: Sequence[str], file: Words, container: Words = frozenset()) -> Told:
    """What the names of an image's folders tell, then of the image, then of the archive that it is in.

    Raises UnclearSplitError if they contradict each other. Below a folder that tells, the image's own name does not
    count: `train/cat/test.png` is a training image.
    """
    told = Told(None)
    for depth, folder in enumerate(folders, start=1):
        if (split := SPLIT_WORDS.get(folder.lower())) is not None:
            told = Told(split, depth)
            break
    else:
        inside = [(words_of(folder), depth) for depth, folder in enumerate(folders, start=1)]
        found = frozenset[str]().union(*(words for words, _ in inside))
        if found:
            told = Told(_only(found), next(depth for words, depth in inside if words))
        elif file and not container:
            told = Told(_only(file))
    if container:
        _only(container | ({told.split} if told.split else set()))
    return told if told.split or not container else Told(_only(container))


def split_of_file(folders: Sequence[str], file: Words) -> Told:
    """What the names of a data file (Parquet, archive) and of its folders tell. Raises as `split_of`."""
    return split_of(folders, file, container=file)


def _only(splits: Iterable[str]) -> str:
    first, *others = sorted(splits)
    if others:
        raise UnclearSplitError(" and ".join([first, *others]))
    return first


def require_splits(where: str, told: Sequence[tuple[str, str | None]]) -> None:
    """Raise UsageError unless every file's split is told, or none's, and some are for training.

    Args:
        where: The source, for messages.
        told: A pattern of files, such as `dev/*`, with their split; None if it cannot be told.
    """
    splits = {split for _, split in told if split is not None}
    unknown = [readable_name(name) for name, split in told if split is None]
    if splits and unknown:
        others = ", ".join(sorted(splits))
        raise UsageError(
            f"{where}: the split of {_few(unknown)} cannot be told, while other files are of {others}: say it with"
            f" --split train='{unknown[0]}' (or validation, test; none leaves them out), or take all for training"
            " with --split train"
        )
    if splits and "train" not in splits:
        names = [readable_name(name) for name, _ in told]
        raise UsageError(
            f"{where} has files of splits ({', '.join(sorted(splits))}: {_few(names)}), but none of train: rename"
            " the training files, name them with --split train=PATTERN, or take all for training with --split train"
        )


def unclear(where: str, name: str, error: UnclearSplitError) -> UsageError:
    """The error for a file whose names tell two splits."""
    shown = readable_name(name)
    return UsageError(
        f"{where}: {shown} could be of {error}, by its names: say which with --split train='{shown}' (or validation,"
        " test; none leaves it out)"
    )


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown}, … ({len(names):,})" if len(names) > 3 else shown
