"""A folder of images: `<class>/<image>`, or images alone, or either below `train/`, `val/` and `test/`."""

import hashlib
import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from progdistill.data.image_names import IMAGE_SUFFIXES, is_image_name, name_bytes, readable_name
from progdistill.data.importers.common import class_names, native_size, refuse_others, split_folders
from progdistill.data.preprocess import ImageRule, decode_image
from progdistill.data.source import Pixels, SourceFacts, SourceImage, UnreadableImageError
from progdistill.errors import UsageError


class ImageFolderSource:
    """Images by split, class and name, in alphabetical order, so that equal folders give equal datasets."""

    def __init__(self, root: Path, rule: ImageRule, *, horizontal_flip_safe: bool) -> None:
        """Count the images. Raises UsageError when there are none, or some that would be left out."""
        self._root, self._rule, self._flip_safe = root, rule, horizontal_flip_safe
        self._splits = split_folders(root)
        self._classes = class_names(self._splits)
        used = {folder for split in self._splits for _, folder in self._folders(split)}
        refuse_others(root, self._splits.values(), used)
        self._counts, self._digest = self._counted()
        for split, count in self._counts.items():
            if not count:
                raise UsageError(
                    f"{self._splits[split]} has no images ({', '.join(IMAGE_SUFFIXES)}): give a folder"
                    " of images, or of one folder of images for each class"
                )
        self._image_size = rule.image_size or native_size(self.read("train", 0), str(root))

    @property
    def facts(self) -> SourceFacts:
        """See Source. The identity is over every file's relative name, size and time of change."""
        return SourceFacts(
            importer="image_folder",
            location=str(self._root),
            description=self._rule.describe(),
            identity={"files": self._digest, "rule": self._rule.model_dump(mode="json")},
            channels=self._rule.channels,
            image_size=self._image_size,
            class_names=self._classes,
            horizontal_flip_safe=self._flip_safe,
            splits=self._counts,
        )

    def verify(self) -> None:
        """See Source: nothing is published of a user's own images."""

    def read(self, split: str, start: int) -> Iterator[SourceImage]:
        """See Source."""
        number = 0
        for label, folder in self._folders(split):
            for path in _images_in(folder):
                if number >= start:
                    name = readable_name(str(path.relative_to(self._root)))
                    yield SourceImage(name, label, partial(_decoded, path, self._rule))
                number += 1

    def _folders(self, split: str) -> Iterator[tuple[int, Path]]:
        root = self._splits[split]
        if not self._classes:
            yield 0, root
        for label, name in enumerate(self._classes):
            if (root / name).is_dir():
                yield label, root / name

    def _counted(self) -> tuple[dict[str, int], str]:
        counts, digest = dict.fromkeys(self._splits, 0), hashlib.sha256()
        for split in self._splits:
            for _, folder in self._folders(split):
                for path in _images_in(folder):
                    counts[split] += 1
                    name = name_bytes(str(path.relative_to(self._root)))
                    digest.update(name + f"\0{_size_and_time(path)}\n".encode())
        return counts, digest.hexdigest()


def _size_and_time(path: Path) -> str:
    try:
        facts = path.stat()
    except OSError as error:  # A link that leads nowhere: it is counted, and left out by name.
        return type(error).__name__
    return f"{facts.st_size}\0{facts.st_mtime_ns}"


def _decoded(path: Path, rule: ImageRule) -> Pixels:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnreadableImageError("it is no file")
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error)) from error
    return decode_image(data, rule)


def _images_in(folder: Path) -> list[Path]:
    return [folder / name for name in sorted(os.listdir(folder)) if is_image_name(name)]
