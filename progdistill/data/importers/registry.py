"""Finds the importer for what a user names as source."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from progdistill.data.catalog import CATALOG
from progdistill.data.preprocess import ImageRule, Resize
from progdistill.data.source import Source
from progdistill.errors import UsageError

IMAGENET64_SIZE: Final = 64
LSUN_SIZE: Final = 128
_LSUN_CATEGORIES: Final = {"lsun_bedroom": "bedroom", "lsun_church": "church_outdoor"}


def open_source(
    name: str, path: Path | None, rule: ImageRule, *, horizontal_flip_safe: bool, unverified: bool
) -> Source:
    """The source of a known dataset, else of one's own images, by what lies at `path`.

    `rule` and `horizontal_flip_safe` are for one's own images: the known datasets have theirs. Raises
    UsageError when nothing fits.
    """
    if name == "digits":
        from progdistill.data.importers.digits import DigitsSource

        return DigitsSource()
    if path is None:
        raise UsageError(f"say where the files of {name} are with --source PATH")
    if not path.exists():
        raise UsageError(f"there is no {path}")
    known = _known(name, path, unverified)
    return known() if known else _own(path, rule, horizontal_flip_safe)


def _known(name: str, path: Path, unverified: bool) -> Callable[[], Source] | None:
    if name == "cifar10":
        from progdistill.data.importers.cifar10 import Cifar10Source

        return lambda: Cifar10Source(path, unverified=unverified)
    if name == "imagenet64":
        return lambda: _imagenet64(path, unverified)
    if name in _LSUN_CATEGORIES:
        from progdistill.data.importers.lsun import LsunSource

        # Center crop and antialiased bilinear resize, as in the paper's published code.
        rule = ImageRule(image_size=LSUN_SIZE, resize=Resize.BILINEAR)
        return lambda: LsunSource(path, _LSUN_CATEGORIES[name], rule, unverified=unverified)
    return None


def _imagenet64(path: Path, unverified: bool) -> Source:
    from progdistill.data.importers.imagenet import open_imagenet
    from progdistill.data.importers.imagenet_batches import ImageNetBatchesSource, find_batches

    if path.is_dir() and find_batches(path):
        return ImageNetBatchesSource(path, IMAGENET64_SIZE, unverified=unverified)
    if path.is_dir() and not any(path.iterdir()):
        raise UsageError(f"{path} is empty: put the files there. Get {CATALOG['imagenet64'].files}")
    # Center crop and area resize, as in the paper's published code.
    return open_imagenet(
        path, ImageRule(image_size=IMAGENET64_SIZE, resize=Resize.AREA), unverified=unverified
    )


def _own(path: Path, rule: ImageRule, flip_safe: bool) -> Source:
    if path.suffix in (".npy", ".npz"):
        from progdistill.data.importers.arrays import ArraysSource

        if rule.image_size is not None or rule.channels != 3:
            raise UsageError(f"{path}: arrays are used as they are; leave --image-size and --gray out")
        return ArraysSource(path, horizontal_flip_safe=flip_safe)
    if path.suffix == ".parquet" or (path.is_dir() and next(path.rglob("*.parquet"), None)):
        from progdistill.data.importers.parquet import ParquetSource

        return ParquetSource(path, rule, horizontal_flip_safe=flip_safe)
    if path.suffix == ".tar":
        from progdistill.data.importers.image_tar import ImageTarSource

        return ImageTarSource({"train": path}, rule, horizontal_flip_safe=flip_safe)
    if path.is_dir():
        from progdistill.data.importers.image_folder import ImageFolderSource

        return ImageFolderSource(path, rule, horizontal_flip_safe=flip_safe)
    raise UsageError(
        f"{path} is nothing that can be prepared: give a folder of images, a .tar of images, .parquet files,"
        " or an .npz or .npy array"
    )
