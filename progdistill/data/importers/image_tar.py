"""Images in tar archives, read from front to back: ImageNet as published, or one's own.

Format of ImageNet (ILSVRC 2012, https://image-net.org/challenges/LSVRC/2012/, readme of its development kit):
`ILSVRC2012_img_train.tar` holds one tar a class, `n01440764.tar`, …, of JPEG files; `ILSVRC2012_img_val.tar`
holds ILSVRC2012_val_00000001.JPEG, … without classes, which the development kit gives. An archive of one's
own holds `<class>/<image>`, or images alone, of the training split.
"""

import hashlib
import itertools
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from progdistill.data.image_names import IMAGE_SUFFIXES, is_image_name, name_bytes, readable_name
from progdistill.data.importers.common import SPLIT_NAMES, native_size
from progdistill.data.importers.published import PublishedFile, verify_published
from progdistill.data.preprocess import ImageRule, decode_image
from progdistill.data.source import SourceFacts, SourceImage
from progdistill.errors import UsageError
from progdistill.progress import Progress


class TarImage(NamedTuple):
    """An image in an archive: its place there, its class (empty: none), and its bytes, not yet read."""

    path: Path
    name: str
    class_name: str
    archive: tarfile.TarFile
    member: tarfile.TarInfo

    def read(self) -> bytes:
        """The image file's bytes; UsageError when the archive is cut off in the middle of them."""
        with _explained(self.path):
            file = self.archive.extractfile(self.member)
            assert file is not None, self.name
            return file.read()


class ImageTarSource:
    """The images of one archive a split, in stored order."""

    def __init__(
        self,
        archives: dict[str, Path],
        rule: ImageRule,
        *,
        horizontal_flip_safe: bool,
        class_of_file: Mapping[str, str] | None = None,
        published: Sequence[tuple[Path, PublishedFile]] = (),
    ) -> None:
        """Look through the archives, of which one is of split train.

        `class_of_file` gives the class by file name for archives that do not tell it; `published` is what
        `verify` compares. Raises UsageError for truncated archives and those without images.
        """
        self._archives, self._rule = archives, rule
        self._flip_safe, self._published = horizontal_flip_safe, published
        self._class_of_file = class_of_file or {}
        self._contents = {split: _contents(path) for split, path in archives.items()}
        self._class_names = _class_names(archives["train"], self._contents["train"])
        self._image_size = rule.image_size or native_size(self.read("train", 0), str(archives["train"]))

    @property
    def facts(self) -> SourceFacts:
        """See Source. The identity is over every image's name, size and time of change."""
        return SourceFacts(
            importer="image_tar",
            location=", ".join(str(path) for path in self._archives.values()),
            description=self._rule.describe(),
            identity={
                "contents": {split: contents.digest for split, contents in self._contents.items()},
                "rule": self._rule.model_dump(mode="json"),
            },
            channels=self._rule.channels,
            image_size=self._image_size,
            class_names=self._class_names,
            horizontal_flip_safe=self._flip_safe,
            splits={split: contents.classes.total() for split, contents in self._contents.items()},
        )

    def verify(self) -> None:
        """See Source."""
        verify_published(self._published)

    def read(self, split: str, start: int) -> Iterator[SourceImage]:
        """See Source."""
        labels = {name: label for label, name in enumerate(self._class_names)}
        for image in itertools.islice(iterate_tar(self._archives[split]), start, None):
            class_name = image.class_name or self._class_of_file.get(PurePosixPath(image.name).name, "")
            if self._class_names and class_name not in labels:
                raise UsageError(
                    f"{image.path}: {image.name} is of class {class_name!r}, which the training images lack"
                )
            label = labels.get(class_name, 0)
            yield SourceImage(
                readable_name(image.name), label, partial(decode_image, image.read(), self._rule)
            )


class _Contents(NamedTuple):
    """What the headers of an archive tell: images of each class, and a digest of names, sizes and times."""

    classes: Counter[str]
    digest: str


def _contents(path: Path) -> _Contents:
    classes, digest, folders = Counter[str](), hashlib.sha256(), set[str]()
    with Progress(f"looking into {path.name}", total=path.stat().st_size, unit="bytes") as progress:
        for image in iterate_tar(path):
            classes[image.class_name] += 1
            folders.update((*PurePosixPath(image.name).parts[:-1], image.class_name))
            digest.update(name_bytes(image.name) + f"\0{image.member.size}\0{image.member.mtime}\n".encode())
            progress.advance(image.member.size)
    if not classes:
        raise UsageError(f"{path} has no images ({', '.join(IMAGE_SUFFIXES)})")
    splits = {SPLIT_NAMES[folder]: folder for folder in sorted(folders) if folder in SPLIT_NAMES}
    if len(splits) > 1:
        raise UsageError(
            f"{path} has the splits {', '.join(sorted(splits.values()))}, which are not told apart in an"
            " archive: unpack it and give the folder"
        )
    return _Contents(classes, digest.hexdigest())


def _class_names(path: Path, contents: _Contents) -> tuple[str, ...]:
    names = tuple(sorted(contents.classes))
    if "" in names and len(names) > 1:
        raise UsageError(f"{path} has images beside the class folders {', '.join(names[1:4])}")
    for name in names:
        if name != readable_name(name):
            raise UsageError(
                f"{path} has a class whose name is not UTF-8, {readable_name(name)}: unpack it, rename that"
                " folder, and give the folder above"
            )
    return () if names == ("",) else names


def iterate_tar(path: Path) -> Iterator[TarImage]:
    """Yield an archive's images in stored order, those in archives inside it too, without reading them."""
    with _explained(path), tarfile.open(path, "r:") as archive:
        for member in _members(archive):
            member_path = PurePosixPath(member.name)
            if member_path.suffix == ".tar":
                with tarfile.open(fileobj=archive.extractfile(member), mode="r:") as inner:
                    for image in _members(inner):
                        if is_image_name(PurePosixPath(image.name).name):
                            name = f"{member.name}/{image.name}"
                            yield TarImage(path, name, member_path.stem, inner, image)
            elif is_image_name(member_path.name):
                yield TarImage(path, member.name, member_path.parent.name, archive, member)


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        if member.isfile():
            yield member
        archive.members.clear()  # type: ignore[attr-defined]  # Else a million headers stay in memory.


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UsageError(
            f"{path} is truncated, compressed or no tar archive ({error}): download it again, or unpack it"
        ) from error
