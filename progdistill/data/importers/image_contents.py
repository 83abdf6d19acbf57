"""What is in a folder or in archives of images: a pass over every file finds images, labels, and what is neither."""

import hashlib
import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from progdistill.data.formats import HEAD_BYTES, describe_content, is_image
from progdistill.data.importers.archives import is_archive_name, iterate_archive
from progdistill.data.importers.files import FoundFile, head_of, walk
from progdistill.data.importers.labels import (
    MAX_LABEL_BYTES,
    MAX_METADATA_BYTES,
    METADATA_NAMES,
    Labels,
    read_metadata,
    sidecar_label,
)
from progdistill.data.importers.layout import Place
from progdistill.data.importers.splits import LEFT_OUT, AssignedSplit, SplitChoice, Words, chosen, words_of
from progdistill.data.importers.unused import Unused
from progdistill.data.source import UnreadableImageError, is_image_name
from progdistill.errors import UsageError
from progdistill.escape import one_line
from progdistill.progress import Progress

_LABELS: Final = ("cls", "json")
_CAPTIONS: Final = ("txt", "text", "caption")


class Container(NamedTuple):
    """A folder or an archive, and the splits that its own name states."""

    path: Path
    words: Words = frozenset()


class Contents:
    """The images in folders or archives, with their places, in an order that depends on the files alone."""

    def __init__(self, containers: Sequence[Container], choices: Sequence[SplitChoice]) -> None:
        self.containers, self._choices = containers, tuple(choices)

    def files(self, container: int, unused: Unused) -> Iterator[FoundFile]:
        """Yield all files but hidden ones; those of an archive can be read until the next one is asked for."""
        path = self.containers[container].path
        return walk(path, unused) if path.is_dir() else iterate_archive(path, unused)

    def images(self, container: int) -> Iterator[tuple[Place, FoundFile]]:
        """Yield the images, with their places."""
        for file in self.files(container, Unused()):
            if label_kind(file.name) is None and (place := self.place_of_image(container, file, Unused())) is not None:
                yield place, file

    def place_of_image(self, container: int, file: FoundFile, unused: Unused) -> Place | None:
        """Where an image is; None for what is no image, or left out as `--split none` says."""
        if not is_image_name(file.name) and not _is_image_by_content(file, unused):
            return None
        assigned = self._chosen(container, file.path) if self._choices else None
        if assigned is not None and assigned.split == LEFT_OUT:
            unused.add("left out by --split none", file.path)
            return None
        return Place(container, file.folders, assigned, words_of(os.path.splitext(file.name)[0]))

    def _chosen(self, container: int, path: str) -> AssignedSplit | None:
        """What `--split` says of a path in a container; an archive's name may stand before it."""
        if (assigned := chosen(self._choices, path)) is not None:
            return assigned
        assigned = chosen(self._choices, f"{self.containers[container].path.name}/{path}")
        return assigned and assigned._replace(depth=max(0, assigned.depth - 1))

    def name_of(self, place: Place, example: str) -> str:
        """A name for `--split` that stands for the images of a place: their folder or archive, or one of them."""
        path = self.containers[place.container].path
        return "/".join(place.folders) or (example if path.is_dir() else path.name)


def label_kind(name: str) -> str | None:
    """`metadata` for a table of labels, or the extension of a file that may label the image of the same name."""
    if name.lower() in METADATA_NAMES:
        return "metadata"
    extension = name.rpartition(".")[2].lower()
    return extension if extension in (*_LABELS, *_CAPTIONS) else None


def _is_image_by_content(file: FoundFile, unused: Unused) -> bool:
    head = head_of(file, HEAD_BYTES)
    if head is None:
        unused.add("not a file, or not readable", file.path)
    elif is_image(head):
        return True
    elif is_archive_name(file.name):
        unused.add("an archive beside images: unpack it, or give it alone as --source", file.path)
    else:
        suffix = os.path.splitext(file.name)[1].lower()
        unused.add(describe_content(head) or f"no image ({one_line(suffix) or 'no ending'})", file.path)
    return False


class _Sample:
    """Files of one folder whose names are equal up to the first dot."""

    def __init__(self, key: tuple[object, ...]) -> None:
        self.key = key
        self.images: list[str] = []
        self.others: list[tuple[str, FoundFile, bytes]] = []
        """The kind of each file beside the images, and its bytes if it may be a label."""


class Scan:
    """The result of a pass: the place of every image in order, and what their labels are."""

    def __init__(self, where: str, contents: Contents, unused: Unused) -> None:
        self._where, self._contents, self._unused = where, contents, unused
        self.places: dict[Place, str] = {}
        """With the name of one image in each."""
        self.images = array("i")
        """For each image, the number of its place."""
        self.ends: list[int] = []
        """For each container, the number of images up to its end."""
        self.labels = Labels(where)
        self.labels_from = ""
        """Empty: by folders, or the images have no labels."""
        self._digest = hashlib.sha256()
        self._numbers: dict[Place, int] = {}
        self._metadata: dict[tuple[int, str], object] = {}
        self._sample = _Sample(())
        for number, (path, _) in enumerate(contents.containers):
            self._pass(number, path)
        if self._metadata:
            self._apply_metadata()

    @property
    def digest(self) -> str:
        """Of the name, size and time of every image and every file of labels."""
        return self._digest.hexdigest()

    def _pass(self, container: int, path: Path) -> None:
        size = 0 if path.is_dir() else path.stat().st_size
        with Progress(f"scanning {path.name}", total=size, unit="bytes") as progress:
            for file in self._contents.files(container, self._unused):
                progress.advance(max(0, file.size) if size else 0)
                kind = label_kind(file.name)
                if kind == "metadata":
                    self._add_metadata(container, file)
                else:
                    self._add(container, file, kind)
            self._finish_sample()
        self.ends.append(len(self.images))

    def _add(self, container: int, file: FoundFile, kind: str | None) -> None:
        key = (container, file.folders, file.name.partition(".")[0])
        if key != self._sample.key:
            self._finish_sample()
            self._sample = _Sample(key)
        if kind is not None:
            self._sample.others.append((kind, file, _start(file, MAX_LABEL_BYTES + 1) if kind in _LABELS else b""))
        elif (place := self._contents.place_of_image(container, file, self._unused)) is not None:
            self.places.setdefault(place, file.name)
            self.images.append(self._numbers.setdefault(place, len(self._numbers)))
            self._sample.images.append(file.path)
            self._record(file)

    def _record(self, file: FoundFile) -> None:
        self._digest.update(os.fsencode(file.path) + f"\0{file.size}\0{file.modified}\n".encode())

    def _finish_sample(self) -> None:
        """Give the label of a sample to its image; name what is not used."""
        sample, self._sample = self._sample, _Sample(())
        label, labels_from = None, ""
        for kind, file, data in sample.others:
            if not sample.images:
                self._unused.add(f"no image (.{kind})", file.path)
            elif kind not in _LABELS or len(data) > MAX_LABEL_BYTES:
                self._unused.add(f"file beside an image (.{kind})", file.path)
            elif label is None or kind == "cls":
                found, others = sidecar_label(kind, data, f"{self._where}: {one_line(file.path)}")
                for other in others:
                    self._unused.add("field", other, once=True)
                if found is not None:
                    label, labels_from = found, f"*.{kind} files"
                    self._record(file)
        if labels_from and len(sample.images) > 1:
            names, last = ", ".join(map(one_line, sample.images[:3])), sample.images[-1].rpartition("/")[2]
            raise UsageError(
                f"{self._where}: several images have one label, {names}: leave out all but one of each, such as with"
                f" --split none='*.{one_line(last.partition('.')[2])}'"
            )
        self.labels_from = labels_from or self.labels_from
        for path in sample.images:
            self.labels.add(label, one_line(path))

    def _add_metadata(self, container: int, file: FoundFile) -> None:
        where = f"{self._where}: {one_line(file.path)}"
        table = read_metadata(file.name.lower(), _read(file, MAX_METADATA_BYTES, where), where)
        for column in table.others:
            self._unused.add(f"column of {file.name}", column, once=True)
        if table.column is not None:
            self.labels_from = f"column {one_line(table.column)} of {file.name}"
            folder = "".join(f"{part}/" for part in file.folders)
            self._metadata |= {(container, folder + name): label for name, label in table.labels.items()}
            self._record(file)

    def _apply_metadata(self) -> None:
        """Look up the label of every image. Raises UsageError for images that the tables lack."""
        self.labels, missing, rows = Labels(self._where), list[str](), dict(self._metadata)
        for container in range(len(self._contents.containers)):
            for _, file in self._contents.images(container):
                if (container, file.path) not in self._metadata:
                    missing.append(one_line(file.path))
                    continue
                rows.pop((container, file.path), None)
                self.labels.add(self._metadata[container, file.path], one_line(file.path))
        if missing:
            raise UsageError(
                f"{self._where}: {len(missing):,} images are not in {self.labels_from.rpartition(' ')[2]}, the first is"
                f" {missing[0]}: add them there, or move that table away to use the folders as classes"
            )
        for _, name in rows:
            self._unused.add("row of metadata whose image is not there", name)


def _read(file: FoundFile, limit: int, where: str) -> bytes:
    data = _start(file, limit + 1)
    if len(data) > limit:
        raise UsageError(f"{where} has more than {limit:,} bytes, too many for labels: move it away")
    return data


def _start(file: FoundFile, count: int) -> bytes:
    try:
        return file.read(count)
    except UnreadableImageError as error:
        raise UsageError(f"{one_line(file.path)} cannot be read: {error}") from error
