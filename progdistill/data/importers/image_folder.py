"""A folder of images: `<class>/<image>`, or images alone, or either below `train/`, `val/` and `test/`."""

import hashlib
import itertools
import logging
import os
import stat
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from progdistill.data.importers.common import SPLIT_NAMES, native_size, require_class_folders
from progdistill.data.preprocess import Preprocessing, decode_image
from progdistill.data.source import (
    Pixels,
    Source,
    SourceFacts,
    SourceImage,
    UnreadableImageError,
    is_image_name,
    readable_name,
)
from progdistill.errors import UsageError

logger = logging.getLogger(__name__)


class ImageFolderSource(Source):
    """Images by split, class and name, in alphabetical order: equal folders give equal datasets."""

    def __init__(self, root: Path, preprocessing: Preprocessing, *, horizontal_flip_safe: bool) -> None:
        """Count the images. Raises UsageError if there are none, or some would be left out."""
        self._root, self._preprocessing = root, preprocessing
        self._splits = _split_folders(root)
        self._classes = _class_names(self._splits)
        used = {folder for split in self._splits for _, folder in self._folders(split)}
        _refuse_other_images(root, self._splits.values(), used)
        counts, digest = self._scan()
        for split, count in counts.items():
            if not count:
                raise UsageError(f"{self._splits[split]} has no images: give a folder of images or of class folders")
        self.facts = SourceFacts(
            importer="image_folder",
            location=str(root),
            description=preprocessing.describe(),
            identity={"files": digest, "preprocessing": preprocessing.model_dump(mode="json")},
            channels=preprocessing.channels,
            image_size=preprocessing.image_size or native_size(self.read("train"), str(root)),
            class_names=self._classes,
            horizontal_flip_safe=horizontal_flip_safe,
            splits=counts,
        )

    def read(self, split: str, start: int = 0) -> Iterator[SourceImage]:
        for label, path in itertools.islice(self._paths(split), start, None):
            name = readable_name(str(path.relative_to(self._root)))
            yield SourceImage(name, label, partial(_decode, path, self._preprocessing))

    def _paths(self, split: str) -> Iterator[tuple[int, Path]]:
        """Yield the label and the path of each image."""
        for label, folder in self._folders(split):
            for name in sorted(os.listdir(folder)):
                if is_image_name(name):
                    yield label, folder / name

    def _folders(self, split: str) -> Iterator[tuple[int, Path]]:
        root = self._splits[split]
        if not self._classes:
            yield 0, root
        for label, name in enumerate(self._classes):
            if (root / name).is_dir():
                yield label, root / name

    def _scan(self) -> tuple[dict[str, int], str]:
        """Return the number of images per split, and a digest of every relative name, size and mtime."""
        counts, digest = dict.fromkeys(self._splits, 0), hashlib.sha256()
        for split in self._splits:
            for _, path in self._paths(split):
                counts[split] += 1
                try:
                    facts = path.stat()
                    size_and_mtime = f"{facts.st_size}\0{facts.st_mtime_ns}"
                except OSError as error:  # A dangling link: counted here, and skipped by name when read.
                    size_and_mtime = type(error).__name__
                digest.update(os.fsencode(path.relative_to(self._root)) + f"\0{size_and_mtime}\n".encode())
        return counts, digest.hexdigest()


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split. Without a folder `train`, all of `root` is the training split."""
    named = [name for name in SPLIT_NAMES if (root / name).is_dir()]
    if "train" not in named:
        _refuse_splits_without_training(root)
        return {"train": root}
    splits: dict[str, Path] = {}
    for name in named:
        split = SPLIT_NAMES[name]
        if (other := splits.setdefault(split, root / name)).name != name:
            raise UsageError(f"{root} has two folders for split {split}, {other.name} and {name}: merge them")
    return splits


def _refuse_splits_without_training(root: Path) -> None:
    folders = [folder for folder in _subfolders(root) if not folder.name.startswith(".")]
    named = sorted(folder.name for folder in folders if folder.name.lower() in SPLIT_NAMES)
    others = [folder for folder in folders if folder.name not in named]
    walks = (files for folder in others for _, _, files in os.walk(folder))
    if named and not _has_images(root) and not any(is_image_name(name) for files in walks for name in files):
        raise UsageError(f"{root} has folders of splits ({', '.join(named)}), but none called train: rename one")


def _class_names(splits: dict[str, Path]) -> tuple[str, ...]:
    """Return the subfolders of the training split that hold images; none if images lie directly in it."""
    train = splits["train"]
    names = tuple(sorted(folder.name for folder in _subfolders(train) if _has_images(folder)))
    require_class_folders(train, names, loose_images=_has_images(train))
    for name in names:
        if name.lower() in SPLIT_NAMES:
            logger.warning("%s is treated as a class, since there is no folder train beside it", train / name)
    for split, folder in splits.items():
        for entry in _subfolders(folder):
            if entry.name not in names and _has_images(entry):
                raise UsageError(f"class {readable_name(entry.name)} of split {split} is not in split train")
    return names


def _refuse_other_images(root: Path, splits: Collection[Path], used: Collection[Path]) -> None:
    """Raise UsageError for images below `root` that are not directly in one of the folders `used`."""
    followed = {*splits, *used}
    for name, subfolders, files in os.walk(root, followlinks=True):
        folder = Path(name)
        stray = min(filter(is_image_name, files), default=None)
        if stray is not None and folder not in used:
            raise UsageError(f"{folder} has images that would be left out, such as {stray}: move them")
        subfolders[:] = sorted(
            inner
            for inner in subfolders
            if not inner.startswith(".") and (folder / inner in followed or not (folder / inner).is_symlink())
        )


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()]


def _has_images(folder: Path) -> bool:
    return any(map(is_image_name, os.listdir(folder)))


def _decode(path: Path, preprocessing: Preprocessing) -> Pixels:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnreadableImageError("it is not a file")
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error)) from error
    return decode_image(data, preprocessing)
