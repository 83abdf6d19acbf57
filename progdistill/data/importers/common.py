"""What several importers share: splits, classes, sizes and folders by name."""

import os
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from progdistill.data.image_names import is_image_name, readable_name
from progdistill.data.source import SourceImage, UnreadableImageError
from progdistill.errors import UsageError

MOST_CLASSES: Final = 1_000_000
"""Beyond it, numbers are ids of something: a dataset keeps a name for each number up to the highest."""


def require_class_number(where: str, number: int) -> None:
    """Raise UsageError for a number that is too high for a class."""
    if number >= MOST_CLASSES:
        raise UsageError(
            f"{where} has class number {number}, above the highest that can be used, {MOST_CLASSES - 1}:"
            " number the classes 0, 1, 2, …"
        )


def class_names_up_to(highest: int) -> tuple[str, ...]:
    """The numbers 0 to `highest` as names."""
    return tuple(str(number) for number in range(highest + 1))


def native_size(images: Iterable[SourceImage], where: str) -> int:
    """Height and width of the first readable image; UsageError when it is no square or there is none."""
    for image in images:
        try:
            pixels = image.pixels() if callable(image.pixels) else image.pixels
        except UnreadableImageError:
            continue
        height, width = int(pixels.shape[0]), int(pixels.shape[1])
        if height != width:
            raise UsageError(f"{image.name} is {width}×{height}: choose a square with --image-size N")
        return height
    raise UsageError(f"{where} has no image that can be read")


SPLIT_NAMES: Final = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""From the name to the split as it is stored."""


def split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split; without a folder `train`, all of it is the training split.

    Raises UsageError for two folders of one split, and for folders of splits alone of which none is `train`.
    """
    named = [name for name in SPLIT_NAMES if (root / name).is_dir()]
    if "train" not in named:
        _refuse_splits_without_training(root)
        return {"train": root}
    splits: dict[str, Path] = {}
    for name in named:
        other = splits.setdefault(SPLIT_NAMES[name], root / name)
        if other.name != name:
            raise UsageError(
                f"{root} has the folders {other.name} and {name}, both for split {SPLIT_NAMES[name]}: move"
                " their images into one of them"
            )
    return splits


def class_names(splits: dict[str, Path]) -> tuple[str, ...]:
    """The subfolders of the training split that hold images; none when the images lie there themselves."""
    train = splits["train"]
    names = sorted(folder.name for folder in _subfolders(train) if _holds_images(folder))
    if names and _holds_images(train):
        raise UsageError(
            f"{train} has images beside the class folders {', '.join(names[:3])}: move them into a class"
            " folder, or give one folder without subfolders"
        )
    for name in names:
        if name != readable_name(name):
            raise UsageError(f"{train} has a class whose name is not UTF-8, {readable_name(name)}: rename it")
        if name.lower() in SPLIT_NAMES:
            print(f"{train / name} is taken for a class, since no folder train is beside it", file=sys.stderr)
    for split, folder in splits.items():
        for entry in _subfolders(folder):
            if _holds_images(entry) and entry.name not in names:
                raise UsageError(
                    f"class {readable_name(entry.name)} of split {split} is not among the training split's"
                    " classes"
                )
    return tuple(names)


def refuse_others(root: Path, splits: Collection[Path], used: Collection[Path]) -> None:
    """Raise UsageError for images below `root` that are not directly in one of the folders `used`."""
    followed = {*splits, *used}
    for name, subfolders, files in os.walk(root, followlinks=True):
        folder = Path(name)
        stray = min(filter(is_image_name, files), default=None)
        if stray is not None and folder not in used:
            raise UsageError(
                f"{folder} has images that would be left out, such as {stray}: move them directly into a"
                f" folder of a class or split, or out of {root}"
            )
        subfolders[:] = sorted(
            inner
            for inner in subfolders
            if not inner.startswith(".") and (folder / inner in followed or not (folder / inner).is_symlink())
        )


def _refuse_splits_without_training(root: Path) -> None:
    folders = [folder for folder in _subfolders(root) if not folder.name.startswith(".")]
    named = sorted(folder.name for folder in folders if folder.name.lower() in SPLIT_NAMES)
    others = (folder for folder in folders if folder.name not in named)
    if named and not _holds_images(root) and not any(map(_holds_images_below, others)):
        raise UsageError(
            f"{root} has the folders {', '.join(named)} of splits, but none called train: call that of the"
            " training images so"
        )


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in map(Path, os.scandir(folder)) if path.is_dir()]


def _holds_images(folder: Path) -> bool:
    return any(is_image_name(entry.name) for entry in os.scandir(folder))


def _holds_images_below(folder: Path) -> bool:
    return any(is_image_name(name) for _, _, files in os.walk(folder) for name in files)
