"""ImageNet from its full-size files: the published tars, or folders of images."""

import io
import os
import zlib
from pathlib import Path
from typing import Any, Final

from progdistill.data.importers.archives import read_files
from progdistill.data.importers.common import PublishedFile, check_counts, explain_damage, verify_published
from progdistill.data.importers.image_contents import Container
from progdistill.data.importers.image_files import ImageFilesSource
from progdistill.data.importers.unused import Unused
from progdistill.data.preprocess import Preprocessing
from progdistill.data.source import Source
from progdistill.errors import UsageError

COUNTS: Final = {"train": 1_281_167, "validation": 50_000}

TRAIN: Final = PublishedFile("ILSVRC2012_img_train.tar", "1d675b47d978889d74fa0da5fadfb00e")
VALIDATION: Final = PublishedFile("ILSVRC2012_img_val.tar", "29b22e2961454d5413ddabcf34fc5622")
DEVKIT: Final = PublishedFile("ILSVRC2012_devkit_t12.tar.gz", "fa75699e90414af021442c21a62c3abf")
"""With the MD5 that torchvision.datasets.imagenet checks."""

MAX_DEVKIT_BYTES: Final = 2**24
"""Of a file in it, also uncompressed: the largest published one has 1 MB."""

META_FILE: Final = "ILSVRC2012_devkit_t12/data/meta.mat"
TRUTH_FILE: Final = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"


def open_imagenet(path: Path, preprocessing: Preprocessing, *, unverified: bool) -> Source:
    """Open the folder of the tars, the training tar, or a folder with `train/<class>/` and `val/<class>/`."""
    if path.is_file() or (path / TRAIN.name).is_file():
        source: Source = _open_tars(path, preprocessing, unverified)
    else:
        source = ImageFilesSource(str(path), [Container(path)], preprocessing, horizontal_flip_safe=True)
    if not unverified:
        check_counts(path, source.facts.splits, COUNTS)
    return source


def _open_tars(path: Path, preprocessing: Preprocessing, unverified: bool) -> Source:
    folder = path if path.is_dir() else path.parent
    train = path / TRAIN.name if path.is_dir() else path
    archives, classes, files = [Container(train, frozenset({"train"}))], None, [(train, TRAIN)]
    validation, devkit = folder / VALIDATION.name, folder / DEVKIT.name
    if has_validation := validation.is_file():
        if not devkit.is_file():
            raise UsageError(f"{validation} needs {DEVKIT.name} beside it: add it, or move that file away")
        files = [(devkit, DEVKIT), *files, (validation, VALIDATION)]
    if not unverified:  # Before their contents are looked at.
        verify_published(files)
    if has_validation:
        archives.append(Container(validation, frozenset({"validation"})))
        classes = validation_classes(devkit)
    unused, used = Unused(), {DEVKIT.name, *(archive.path.name for archive in archives)}
    for name in sorted(os.listdir(path)) if path.is_dir() else ():
        if name not in used:
            unused.add("file or folder beside the archives", name)
    where = ", ".join(str(archive.path) for archive in archives)
    return ImageFilesSource(
        where, archives, preprocessing, horizontal_flip_safe=True, class_of_file=classes, unused=unused
    )


def validation_classes(devkit: Path) -> dict[str, str]:
    """Return the WordNet ID (`n01440764`) of each validation image by file name."""
    files = read_files(devkit, (TRUTH_FILE, META_FILE), MAX_DEVKIT_BYTES)
    errors = (
        OSError,
        KeyError,
        ValueError,
        TypeError,
        IndexError,
        AttributeError,
        OverflowError,
        MemoryError,
        zlib.error,
    )
    with explain_damage(devkit, "truncated or not ImageNet's development kit", errors):
        wordnet_ids = {
            int(synset["ILSVRC2012_ID"]): str(synset["WNID"])
            for synset in _synsets(files[META_FILE])
            if int(synset["num_children"]) == 0
        }
        return {
            f"ILSVRC2012_val_{number:08d}.JPEG": wordnet_ids[int(line)]
            for number, line in enumerate(files[TRUTH_FILE].split(), start=1)
        }


def _synsets(matrix: bytes) -> Any:
    """Read the table of classes, a MATLAB file of version 5, whose parts may be compressed."""
    from scipy.io import loadmat  # Slow to import.

    offset, size = 128, 0
    while offset + 8 <= len(matrix):
        kind, count = (int.from_bytes(matrix[at : at + 4], "little") for at in (offset, offset + 4))
        if kind == 15:  # miCOMPRESSED
            size += len(zlib.decompressobj().decompress(matrix[offset + 8 : offset + 8 + count], MAX_DEVKIT_BYTES))
        if size >= MAX_DEVKIT_BYTES:
            raise ValueError(f"its table has more than {MAX_DEVKIT_BYTES:,} bytes")
        offset += 8 + count
    try:
        return loadmat(io.BytesIO(matrix), squeeze_me=True)["synsets"]
    except Exception as error:  # of a damaged file it raises almost anything
        raise ValueError(str(error)) from error
