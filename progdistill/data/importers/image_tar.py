"""Images in tar archives, read from front to back: ImageNet as published, or a user's own.

Format of ImageNet (ILSVRC 2012, https://image-net.org/challenges/LSVRC/2012/, readme of its development kit):
`ILSVRC2012_img_train.tar` holds one tar of JPEG files per class, `n01440764.tar`, …; `ILSVRC2012_img_val.tar` holds
ILSVRC2012_val_00000001.JPEG, … without classes, which the development kit gives. A user's archive holds
`<class>/<image>`, or images alone, of the training split.
"""

import hashlib
import itertools
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from progdistill.data.importers.common import (
    SPLIT_NAMES,
    TAR_ERRORS,
    PublishedFile,
    explain_damage,
    native_size,
    read_member,
    require_class_folders,
    verify_published,
)
from progdistill.data.preprocess import Preprocessing, decode_image
from progdistill.data.source import IMAGE_SUFFIXES, Source, SourceFacts, SourceImage, is_image_name, readable_name
from progdistill.errors import UsageError
from progdistill.progress import Progress

_PROBLEM = "truncated, compressed or not a tar archive"
_REMEDY = "download it again, or unpack it"


class TarImage(NamedTuple):
    """An image in an archive, not read yet."""

    name: str
    class_name: str
    """Empty: the archive has no classes."""
    archive: tarfile.TarFile
    member: tarfile.TarInfo


class ImageTarSource(Source):
    """The images of one archive per split, in stored order."""

    def __init__(
        self,
        archives: dict[str, Path],
        preprocessing: Preprocessing,
        *,
        horizontal_flip_safe: bool,
        class_of_file: Mapping[str, str] | None = None,
        published: Sequence[tuple[Path, PublishedFile]] = (),
    ) -> None:
        """Scan the archive of each split, `train` among them.

        `class_of_file` has the class of each file name, for archives without classes. `verify` checks `published`.
        """
        self._archives, self._preprocessing, self._published = archives, preprocessing, published
        self._class_of_file = class_of_file or {}
        contents = {split: _scan(path) for split, path in archives.items()}
        classes, _ = contents["train"]
        self._class_names = tuple(sorted(name for name in classes if name))
        require_class_folders(archives["train"], self._class_names, loose_images="" in classes)
        self.facts = SourceFacts(
            importer="image_tar",
            location=", ".join(str(path) for path in archives.values()),
            description=preprocessing.describe(),
            identity={
                "contents": {split: digest for split, (_, digest) in contents.items()},
                "preprocessing": preprocessing.model_dump(mode="json"),
            },
            channels=preprocessing.channels,
            image_size=preprocessing.image_size or native_size(self.read("train"), str(archives["train"])),
            class_names=self._class_names,
            horizontal_flip_safe=horizontal_flip_safe,
            splits={split: found.total() for split, (found, _) in contents.items()},
        )

    def verify(self) -> None:
        verify_published(self._published)

    def read(self, split: str, start: int = 0) -> Iterator[SourceImage]:
        path, labels = self._archives[split], {name: label for label, name in enumerate(self._class_names)}
        for image in itertools.islice(iterate_tar(path), start, None):
            class_name = image.class_name or self._class_of_file.get(PurePosixPath(image.name).name, "")
            if self._class_names and class_name not in labels:
                raise UsageError(f"{path}: class {class_name!r} of {image.name} is not in split train")
            with explain_damage(path, _PROBLEM, TAR_ERRORS, _REMEDY):
                data = read_member(image.archive, image.member)
            decode = partial(decode_image, data, self._preprocessing)
            yield SourceImage(readable_name(image.name), labels.get(class_name, 0), decode)


def _scan(path: Path) -> tuple[Counter[str], str]:
    """Return the number of images per class, and a digest of every name, size and mtime."""
    classes, digest, folders = Counter[str](), hashlib.sha256(), set[str]()
    with Progress(f"scanning {path.name}", total=path.stat().st_size, unit="bytes") as progress:
        for image in iterate_tar(path):
            classes[image.class_name] += 1
            folders.update((*PurePosixPath(image.name).parts[:-1], image.class_name))
            digest.update(os.fsencode(image.name) + f"\0{image.member.size}\0{image.member.mtime}\n".encode())
            progress.advance(image.member.size)
    if not classes:
        raise UsageError(f"{path} has no images ({', '.join(IMAGE_SUFFIXES)})")
    splits = {SPLIT_NAMES[folder]: folder for folder in sorted(folders) if folder in SPLIT_NAMES}
    if len(splits) > 1:
        found = ", ".join(sorted(splits.values()))
        raise UsageError(f"{path} has several splits ({found}): unpack it and give the folder")
    return classes, digest.hexdigest()


def iterate_tar(path: Path) -> Iterator[TarImage]:
    """Yield an archive's images in stored order, including those in archives inside it, without reading them."""
    with explain_damage(path, _PROBLEM, TAR_ERRORS, _REMEDY), tarfile.open(path, "r:") as archive:
        for member in _members(archive):
            member_path = PurePosixPath(member.name)
            if member_path.suffix == ".tar":
                with tarfile.open(fileobj=archive.extractfile(member), mode="r:") as inner:
                    for image in _members(inner):
                        if is_image_name(PurePosixPath(image.name).name):
                            yield TarImage(f"{member.name}/{image.name}", member_path.stem, inner, image)
            elif is_image_name(member_path.name):
                yield TarImage(member.name, member_path.parent.name, archive, member)


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        if member.isfile():
            yield member
        archive.members.clear()  # type: ignore[attr-defined]  # Or a million headers stay in memory.
