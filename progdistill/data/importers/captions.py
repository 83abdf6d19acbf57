"""Captions of image files: a column of `metadata.jsonl` or `metadata.csv`, or files beside the images."""

import csv
import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from progdistill.data.columns import CAPTION, Column, caption_width
from progdistill.data.importers.files import FoundFile
from progdistill.data.importers.image_contents import Container, Contents
from progdistill.data.importers.labels import MAX_LABEL_BYTES, MAX_METADATA_BYTES, METADATA_NAMES
from progdistill.data.importers.unused import Unused
from progdistill.data.source import Source, SourceImage, UnreadableImageError
from progdistill.errors import UsageError
from progdistill.escape import one_line
from progdistill.models_base import parse_json

TEXT_FILES: Final = ("txt", "text", "caption")
"""Endings of files with the caption of the image of the same name."""


class CaptionedSource(Source):
    """A source of image files whose captions have been found."""

    def __init__(self, source: Source, captions: Mapping[str, str], name: str) -> None:
        """Add captions, by the name of the image without its ending; `name` says where they are from."""
        self._source, self._captions, self._name = source, captions, name
        digest = hashlib.sha256(repr(sorted(captions.items())).encode()).hexdigest()
        self.facts = source.facts.model_copy(
            update={
                "columns": (Column(name=CAPTION, shape=(caption_width(captions.values()),), dtype="uint8"),),
                "identity": source.facts.identity | {"captions": [name, digest]},
                "not_used": tuple(filter(None, (_without(line, name) for line in source.facts.not_used))),
            }
        )

    def read(self, split: str, start: int = 0) -> Iterator[SourceImage]:
        """See Source. UsageError for an image without a caption."""
        for image in self._source.read(split, start):
            if (caption := self._captions.get(key_of(image.name))) is None:
                where = f"{self.facts.location}: {image.name}"
                raise UsageError(f"{where} has no caption {self._name!r}: add it, or leave --captions out")
            yield image._replace(caption=caption)


def key_of(path: str) -> str:
    """A path up to the first dot of the file's name, which files of one sample have in common."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + name.partition(".")[0]


def read_captions(where: str, containers: Sequence[Container], name: str) -> dict[str, str]:
    """Find the captions in folders or archives, by `key_of` their image.

    Args:
        where: The source, for messages.
        containers: The folders or archives.
        name: A column of a metadata table, or a field of .json files; `txt` for text files beside the images.

    Raises:
        UsageError: There are none, or two samples of one name differ.
    """
    found: dict[str, str] = {}
    for number in range(len(containers)):
        for file in Contents(containers, ()).files(number, Unused()):
            for key, caption in _captions_in(file, name, where):
                if found.setdefault(key, caption) != caption:
                    raise UsageError(f"{where}: two samples called {key} have different captions: rename one of them")
    if not found:
        raise UsageError(
            f"{where} has no captions {name!r}: give --captions the name of a column of metadata.jsonl or metadata.csv,"
            " of a field of .json files, or txt for text files beside the images"
        )
    return found


def _captions_in(file: FoundFile, name: str, where: str) -> Iterator[tuple[str, str]]:
    kind = file.name.rpartition(".")[2].lower()
    shown = f"{where}: {one_line(file.path)}"
    try:
        if file.name.lower() in METADATA_NAMES:
            folder = "".join(f"{part}/" for part in file.folders)
            for row in _rows(file.name.lower(), file.read(MAX_METADATA_BYTES).decode()):
                if isinstance(row.get("file_name"), str) and isinstance(row.get(name), str):
                    yield key_of(folder + row["file_name"]), row[name]
        elif name == "txt" and kind in TEXT_FILES:
            yield key_of(file.path), file.read(MAX_LABEL_BYTES).decode().strip()
        elif kind == "json":
            facts = parse_json(file.read(MAX_LABEL_BYTES))
            if isinstance(facts, dict) and isinstance(facts.get(name), str):
                yield key_of(file.path), facts[name]
    except (ValueError, UnreadableImageError) as error:
        raise UsageError(f"{shown} cannot be read: {error}") from error


def _rows(name: str, text: str) -> Iterator[dict[str, Any]]:
    if name.endswith(".csv"):
        yield from csv.DictReader(io.StringIO(text))
        return
    for line in filter(None, map(str.strip, text.splitlines())):
        row = parse_json(line)
        if isinstance(row, dict):
            yield row


def _without(line: str, name: str) -> str | None:
    """A line of what is not used, without the captions."""
    if name == "txt":
        return None if re.match(r"file beside an image \(\.(txt|text|caption)\)", line) else line
    match = re.fullmatch(r"((?:field|column of metadata\.\w+)) \((\d+)\): (.*)", line)
    if match is None or name not in (names := match[3].split(", ")):
        return line
    names.remove(name)
    return f"{match[1]} ({int(match[2]) - 1}): {', '.join(names)}" if names else None
