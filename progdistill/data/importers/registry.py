"""Chooses the importer for a dataset name and the files at `--source`.

To add a format: a `Source` subclass, and a branch of `_open_own`. A named dataset also needs `data/catalog.py`.
"""

from pathlib import Path
from typing import Final

from progdistill.data.catalog import CATALOG
from progdistill.data.importers.arrays import ArraysSource
from progdistill.data.importers.cifar10 import Cifar10Source
from progdistill.data.importers.digits import DigitsSource
from progdistill.data.importers.image_folder import ImageFolderSource
from progdistill.data.importers.image_tar import ImageTarSource
from progdistill.data.importers.imagenet import open_imagenet
from progdistill.data.importers.imagenet_batches import ImageNetBatchesSource, find_batches
from progdistill.data.importers.lsun import LsunSource
from progdistill.data.importers.parquet import ParquetSource
from progdistill.data.preprocess import Preprocessing, Resize
from progdistill.data.source import Source
from progdistill.errors import UsageError

IMAGENET64_SIZE: Final = 64
LSUN_SIZE: Final = 128
_LSUN_CATEGORIES: Final = {"lsun_bedroom": "bedroom", "lsun_church": "church_outdoor"}


def open_source(
    name: str, path: Path | None, preprocessing: Preprocessing, *, horizontal_flip_safe: bool, unverified: bool
) -> Source:
    """Open the files of a known dataset, or a user's own images.

    Args:
        name: Name of the dataset.
        path: Archive, folder or file to read. None only for `digits`.
        preprocessing: For a user's own images. Known datasets have their own.
        horizontal_flip_safe: For a user's own images: whether a mirrored image is as plausible as the image.
        unverified: For known datasets: accept other counts and checksums than published.

    Raises:
        UsageError: No importer reads what is at `path`, or the files are missing, damaged or not the published ones.
    """
    if name == "digits":
        return DigitsSource()
    if path is None:
        raise UsageError(f"give the files of {name} with --source PATH")
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    if name == "cifar10":
        return Cifar10Source(path, unverified=unverified)
    if name == "imagenet64":
        return _open_imagenet64(path, unverified)
    if name in _LSUN_CATEGORIES:
        # Center crop and antialiased bilinear resize, as in the paper's published code.
        as_published = Preprocessing(image_size=LSUN_SIZE, resize=Resize.BILINEAR)
        return LsunSource(path, _LSUN_CATEGORIES[name], as_published, unverified=unverified)
    return _open_own(path, preprocessing, horizontal_flip_safe)


def _open_imagenet64(path: Path, unverified: bool) -> Source:
    if path.is_dir() and find_batches(path):
        return ImageNetBatchesSource(path, IMAGENET64_SIZE, unverified=unverified)
    if path.is_dir() and not any(path.iterdir()):
        raise UsageError(f"{path} is empty: put the files there. Get {CATALOG['imagenet64'].files}")
    # Center crop and area resize, as in the paper's published code.
    as_published = Preprocessing(image_size=IMAGENET64_SIZE, resize=Resize.AREA)
    return open_imagenet(path, as_published, unverified=unverified)


def _open_own(path: Path, preprocessing: Preprocessing, horizontal_flip_safe: bool) -> Source:
    if path.suffix in (".npy", ".npz"):
        if preprocessing.image_size is not None or preprocessing.channels != 3:
            raise UsageError(f"{path}: arrays are used as they are; remove --image-size and --gray")
        return ArraysSource(path, horizontal_flip_safe=horizontal_flip_safe)
    if path.suffix == ".parquet" or (path.is_dir() and next(path.rglob("*.parquet"), None)):
        return ParquetSource(path, preprocessing, horizontal_flip_safe=horizontal_flip_safe)
    if path.suffix == ".tar":
        return ImageTarSource({"train": path}, preprocessing, horizontal_flip_safe=horizontal_flip_safe)
    if path.is_dir():
        return ImageFolderSource(path, preprocessing, horizontal_flip_safe=horizontal_flip_safe)
    forms = "a folder of images, a .tar of images, .parquet files, or an .npz or .npy array"
    raise UsageError(f"{path} cannot be prepared: give {forms}")
