"""Which split a file is of: one rule for folders, archives, Parquet files and arrays.

A folder that is called as a split, in any case, decides for all below it; the outermost one counts. Elsewhere a split's
word in the name of a folder, of the file, or of the archive that holds it decides, as on the Hugging Face Hub
(https://huggingface.co/docs/hub/datasets-file-names-and-splits). A file whose split is unclear is asked about.
"""

import re
import shlex
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from progdistill.errors import UsageError
from progdistill.escape import one_line

SPLIT_WORDS: Final = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}

LEFT_OUT: Final = "none"
"""In place of a split: the files are not used."""

Words = frozenset[str]
"""The splits whose words are in a name."""


class AssignedSplit(NamedTuple):
    """What decides a file's split, if anything. The first `depth` folders do, and are no classes; -1: all but one."""

    split: str | None
    depth: int = 0


class UnclearSplitError(Exception):
    """Names contradict each other. The argument says which splits they tell."""


class SplitChoice(NamedTuple):
    """`--split NAME=PATTERN`: files whose path matches are of that split."""

    split: str
    pattern: str

    def says_of(self, path: str) -> AssignedSplit | None:
        """What this says of a path below the source. A pattern of a folder matches all in it."""
        if self.pattern == "*":
            return AssignedSplit(self.split, -1)
        parts = self.pattern.rstrip("/").split("/")
        if fnmatchcase(path, "/".join(parts)):
            parts.pop()
        elif not fnmatchcase(path, "/".join((*parts, "*"))):
            return None
        return AssignedSplit(self.split, sum(not set(part) & set("*?") for part in parts))


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


def chosen(choices: Iterable[SplitChoice], path: str) -> AssignedSplit | None:
    """What the first choice with a matching pattern says of a path below the source; None if none matches."""
    return next((assigned for choice in choices if (assigned := choice.says_of(path)) is not None), None)


def split_option(split: str, name: str, *, below: bool = False) -> str:
    """The option, as a shell reads it, that says the split of a file, or of all files below a folder."""
    pattern = re.sub(r"([*?[])", r"[\1]", name) + ("/*" if below else "")
    return f"--split {split}={shlex.quote(pattern)}"


def words_of(name: str) -> Words:
    """The splits whose words are in a name: `cifar10-train` and `TrainA` have one, `trained` none."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return frozenset(SPLIT_WORDS[word] for word in re.findall(r"[^\W\d_]+", spaced.lower()) if word in SPLIT_WORDS)


def split_of(folders: Sequence[str], file: Words, container: Words = frozenset()) -> AssignedSplit:
    """What the names of an image's folders tell, then of the image, then of the archive that it is in.

    Raises UnclearSplitError if they contradict each other. Below a folder that decides, the image's own name does not
    count: `train/cat/test.png` is a training image.
    """
    assigned = AssignedSplit(None)
    for depth, folder in enumerate(folders, start=1):
        if (split := SPLIT_WORDS.get(folder.lower())) is not None:
            assigned = AssignedSplit(split, depth)
            break
    else:
        inside = [(words_of(folder), depth) for depth, folder in enumerate(folders, start=1)]
        found = frozenset[str]().union(*(words for words, _ in inside))
        if found:
            assigned = AssignedSplit(_only(found), next(depth for words, depth in inside if words))
        elif file and not container:
            assigned = AssignedSplit(_only(file))
    if container:
        _only(container | ({assigned.split} if assigned.split else set()))
    return assigned if assigned.split or not container else AssignedSplit(_only(container))


def split_of_file(folders: Sequence[str], file: Words) -> AssignedSplit:
    """What the names of a data file (Parquet, archive) and of its folders tell. Raises as `split_of`."""
    return split_of(folders, file, container=file)


def _only(splits: Iterable[str]) -> str:
    first, *others = sorted(splits)
    if others:
        raise UnclearSplitError(" and ".join([first, *others]))
    return first


def require_splits(where: str, assigned: Sequence[tuple[str, str | None]], *, each: bool = True) -> None:
    """Raise UsageError unless every file has a split, or none has, and some are for training.

    Args:
        where: The source, for messages.
        assigned: A file, or a folder with a slash at its end, with its split; None if it is unclear.
        each: Whether every file is there; otherwise a file stands for all in its place.
    """
    splits = {split for _, split in assigned if split is not None}
    unknown = list(dict.fromkeys(name for name, split in assigned if split is None))
    if splits and unknown:
        others = ", ".join(sorted(splits))
        options = " ".join(
            split_option("train", name.rstrip("/"), below=name.endswith("/"))
            if each or name.endswith("/")
            else "--split train=PATTERN"
            for name in unknown[:3]
        )
        raise UsageError(
            f"{where}: the split of {_few(unknown)} is unclear, while other files are of {others}: say it with"
            f" {options} (or validation, test; none leaves them out), or take all for training with --split train"
        )
    if splits and "train" not in splits:
        names = _few([name for name, _ in assigned])
        raise UsageError(
            f"{where} has files of splits ({', '.join(sorted(splits))}: {names}), but none of train: name the training"
            " files with --split train=PATTERN, or take all for training with --split train"
        )


def unclear(where: str, name: str, error: UnclearSplitError) -> UsageError:
    """The error for a file whose names tell two splits."""
    option = split_option("train", name.rstrip("/"), below=name.endswith("/"))
    return UsageError(
        f"{where}: {one_line(name)} could be of {error}, by its names: say which with {option} (or validation,"
        " test; none leaves it out)"
    )


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(map(one_line, names[:3]))
    return f"{shown}, … ({len(names):,})" if len(names) > 3 else shown
