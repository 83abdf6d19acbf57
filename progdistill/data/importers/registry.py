"""Chooses the importer for a dataset name and the files at `--source`.

To add a format: a `Source` subclass, and a branch of `_open_own`. A named dataset also needs `data/catalog.py`.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from progdistill.data.catalog import CATALOG
from progdistill.data.formats import describe_content, is_archive
from progdistill.data.importers.archives import archive_stem, is_archive_name
from progdistill.data.importers.arrays import ArraysSource
from progdistill.data.importers.captions import CaptionedSource, read_captions
from progdistill.data.importers.cifar10 import Cifar10Source
from progdistill.data.importers.common import head_of_source
from progdistill.data.importers.digits import DigitsSource
from progdistill.data.importers.files import walk
from progdistill.data.importers.image_contents import Container
from progdistill.data.importers.image_files import ImageFilesSource
from progdistill.data.importers.imagenet import open_imagenet
from progdistill.data.importers.imagenet_batches import ImageNetBatchesSource, find_batches
from progdistill.data.importers.lsun import LsunSource
from progdistill.data.importers.numpy_files import is_array_name
from progdistill.data.importers.parquet import ParquetSource, is_table_name
from progdistill.data.importers.prompts import PromptsSource
from progdistill.data.importers.splits import SplitChoice, words_of
from progdistill.data.importers.unused import Unused
from progdistill.data.manifest import MANIFEST_KEY
from progdistill.data.preprocess import Preprocessing, Resize
from progdistill.data.source import Source, is_image_name
from progdistill.errors import UsageError
from progdistill.escape import one_line

IMAGENET64_SIZE: Final = 64
LSUN_SIZE: Final = 128
MAX_SHARDS: Final = 100_000
_LSUN_CATEGORIES: Final = {"lsun_bedroom": "bedroom", "lsun_church": "church_outdoor"}


def open_source(
    name: str,
    path: Path | None,
    preprocessing: Preprocessing,
    *,
    horizontal_flip_safe: bool,
    unverified: bool,
    choices: Sequence[SplitChoice] = (),
    captions: str | None = None,
) -> Source:
    """Open the files of a known dataset, or a user's own images.

    Args:
        name: Name of the dataset.
        path: Archive, folder or file to read; `shard-{0000..0009}.tar` stands for ten. None only for `digits`.
        preprocessing: For a user's own images. Known datasets have their own.
        horizontal_flip_safe: For a user's own images: whether a mirrored image is as plausible as the image.
        unverified: For known datasets: accept other counts and checksums than published.
        choices: For a user's own images: which files are of which split.
        captions: For a user's own images: where their captions are; None: they have none.

    Raises:
        UsageError: No importer reads what is at `path`, or the files are missing, damaged or not the published ones.
    """
    if name == "digits":
        return DigitsSource()
    if path is None:
        raise UsageError(f"give the files of {name} with --source PATH")
    try:
        if (shards := _expanded(path)) is not None and name not in CATALOG:
            return _open_archives(path, shards, preprocessing, horizontal_flip_safe, choices, captions)
        if not path.exists():
            raise UsageError(f"{one_line(str(path))} does not exist")
        if not path.is_dir() and not path.is_file():
            raise UsageError(f"{one_line(str(path))} is neither a folder nor a file")
        if name in CATALOG:
            return _open_known(name, path, unverified)
        return _open_own(path, preprocessing, horizontal_flip_safe, choices, captions)
    except OSError as error:
        raise UsageError(f"cannot read {one_line(str(path))}: {error.strerror or error}") from error


def _open_known(name: str, path: Path, unverified: bool) -> Source:
    if name == "cifar10":
        return Cifar10Source(path, unverified=unverified)
    if name == "imagenet64":
        return _open_imagenet64(path, unverified)
    # Center crop and antialiased bilinear resize, as in the paper's published code.
    as_published = Preprocessing(image_size=LSUN_SIZE, resize=Resize.BILINEAR)
    return LsunSource(path, _LSUN_CATEGORIES[name], as_published, unverified=unverified)


def _open_imagenet64(path: Path, unverified: bool) -> Source:
    if path.is_dir() and find_batches(path, Unused()):
        return ImageNetBatchesSource(path, IMAGENET64_SIZE, unverified=unverified)
    if path.is_dir() and not any(path.iterdir()):
        raise UsageError(f"{path} is empty: put the files there. Get {CATALOG['imagenet64'].files}")
    # Center crop and area resize, as in the paper's published code.
    as_published = Preprocessing(image_size=IMAGENET64_SIZE, resize=Resize.AREA)
    return open_imagenet(path, as_published, unverified=unverified)


def _open_own(
    path: Path,
    preprocessing: Preprocessing,
    horizontal_flip_safe: bool,
    choices: Sequence[SplitChoice],
    captions: str | None,
) -> Source:
    head = head_of_source(path) if path.is_file() else b""
    if path.suffix.lower() == ".txt":
        if preprocessing.image_size is not None or captions is not None or choices:
            raise UsageError(f"{path} holds prompts alone: remove --image-size, --captions and --split")
        return PromptsSource(path)
    if path.suffix.lower() in (".npy", ".npz") or (path.is_dir() and _holds_arrays(path)):
        if captions is not None:
            raise UsageError(f"{path}: arrays have no captions; remove --captions")
        if preprocessing.image_size is not None or preprocessing.channels != 3:
            raise UsageError(f"{path}: arrays are used as they are; remove --image-size and --gray")
        return ArraysSource(path, horizontal_flip_safe=horizontal_flip_safe, choices=choices)
    if path.is_file() and (is_archive_name(path.name) or is_archive(head)):
        return _open_archives(path, [path], preprocessing, horizontal_flip_safe, choices, captions)
    if path.is_file() and not is_table_name(path.name):
        content = describe_content(head)
        forms = (
            "a folder of images, a .tar, .tar.gz or .zip of images, .parquet or .arrow files, an .npz or .npy array, or"
            " a .txt of prompts"
        )
        raise UsageError(f"{path} cannot be prepared{f' ({content})' if content else ''}: give {forms}")
    if (path / MANIFEST_KEY).is_file() and next(path.glob("train-*.arrow"), None):
        raise UsageError(f"{path} is a prepared dataset: use it with --dataset {path}")
    tables, archives = (True, []) if path.is_file() else _tables_and_archives(path)
    if tables:
        flips = {"horizontal_flip_safe": horizontal_flip_safe}
        return ParquetSource(path, preprocessing, **flips, choices=choices, captions=captions)
    if archives:
        return _open_archives(path, archives, preprocessing, horizontal_flip_safe, choices, captions)
    source = ImageFilesSource(
        str(path), [Container(path)], preprocessing, horizontal_flip_safe=horizontal_flip_safe, choices=choices
    )
    return _with_captions(source, [Container(path)], captions)


def _with_captions(source: Source, containers: Sequence[Container], captions: str | None) -> Source:
    if captions is None:
        return source
    return CaptionedSource(source, read_captions(source.facts.location, containers, captions), captions)


def _holds_arrays(folder: Path) -> bool:
    """Whether a folder has .npy files, and no images, tables or archives."""
    if not any(map(is_array_name, os.listdir(folder))):
        return False
    names = [file.name for file in walk(folder, Unused())]
    return not any(is_image_name(name) or is_table_name(name) or is_archive_name(name) for name in names)


def _tables_and_archives(folder: Path) -> tuple[bool, list[Path]]:
    """Whether a folder has Parquet or Arrow files; and its archives, unless it has images."""
    archives, images = [], False
    for file in walk(folder, Unused()):
        if is_table_name(file.name):
            return True, []
        images = images or is_image_name(file.name)
        if is_archive_name(file.name):
            archives.append(folder.joinpath(*file.folders, file.name))
    return False, [] if images else archives


def _open_archives(
    where: Path,
    archives: Sequence[Path],
    preprocessing: Preprocessing,
    horizontal_flip_safe: bool,
    choices: Sequence[SplitChoice],
    captions: str | None,
) -> Source:
    """Open archives, each of the split that its name, or that of its folder below the source, states."""
    unused, containers = Unused(), []
    for path in archives:
        if not path.is_file():
            raise UsageError(f"{one_line(str(path))} is not there or no file: correct --source {where}")
        folders = path.relative_to(where).parts[:-1] if where.is_dir() else ()
        containers.append(Container(path, words_of(" ".join((*folders, archive_stem(path.name))))))
    if where.is_dir():
        for file in walk(where, unused):
            if not is_archive_name(file.name):
                unused.add("file beside the archives", file.path)
    source = ImageFilesSource(
        str(where), containers, preprocessing, horizontal_flip_safe=horizontal_flip_safe, choices=choices, unused=unused
    )
    return _with_captions(source, containers, captions)


def _expanded(path: Path) -> list[Path] | None:
    """The files of `shard-{0000..0009}.tar` or `{train,test}.tar`, as WebDataset names lists of shards."""
    match = re.fullmatch(r"(.*)\{(?:(\d{1,9})\.\.(\d{1,9})|([^{}]*,[^{}]*))\}([^{}]*)", str(path))
    if match is None or path.exists():
        return None
    before, first, last, names, after = match.groups()
    if names is None and int(last) - int(first) >= MAX_SHARDS:
        raise UsageError(f"--source {path} stands for more than {MAX_SHARDS:,} files")
    width = len(first or "")
    between = names.split(",") if names else [f"{n:0{width}d}" for n in range(int(first), int(last) + 1)]
    return [Path(f"{before}{one}{after}") for one in between]
