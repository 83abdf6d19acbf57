"""ImageNet from its full-size files: the published tars, or folders of images."""

import io
import tarfile
from pathlib import Path
from typing import Final

from progdistill.data.importers.image_folder import ImageFolderSource
from progdistill.data.importers.image_tar import ImageTarSource
from progdistill.data.importers.published import PublishedFile, check_counts
from progdistill.data.preprocess import ImageRule
from progdistill.data.source import Source
from progdistill.errors import UsageError

META_FILE = "ILSVRC2012_devkit_t12/data/meta.mat"
TRUTH_FILE = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"


def validation_classes(devkit: Path) -> dict[str, str]:
    """The WordNet id (`n01440764`) of each validation image's file name.

    Raises UsageError when the archive is damaged or another.
    """
    from scipy.io import loadmat  # Takes a while to import.

    try:
        with tarfile.open(devkit) as archive:
            meta, truth = (_read(archive, name) for name in (META_FILE, TRUTH_FILE))
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
    except (tarfile.TarError, EOFError, OSError, KeyError, ValueError) as error:
        raise UsageError(f"{devkit} is truncated or not ImageNet's development kit: {error}") from error
    wordnet_ids = {
        int(synset["ILSVRC2012_ID"]): str(synset["WNID"])
        for synset in synsets
        if int(synset["num_children"]) == 0
    }
    return {
        f"ILSVRC2012_val_{number:08d}.JPEG": wordnet_ids[int(line)]
        for number, line in enumerate(truth.split(), start=1)
    }


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(name)
    return file.read()


COUNTS: Final = {"train": 1_281_167, "validation": 50_000}

TRAIN: Final = PublishedFile("ILSVRC2012_img_train.tar", "1d675b47d978889d74fa0da5fadfb00e")
VALIDATION: Final = PublishedFile("ILSVRC2012_img_val.tar", "29b22e2961454d5413ddabcf34fc5622")
DEVKIT: Final = PublishedFile("ILSVRC2012_devkit_t12.tar.gz", "fa75699e90414af021442c21a62c3abf")
"""With the MD5 that torchvision.datasets.imagenet checks."""


def open_imagenet(path: Path, rule: ImageRule, *, unverified: bool) -> Source:
    """The tars in a folder (or the training tar itself), or folders `train/<class>/`, `val/<class>/`.

    Raises UsageError for missing or damaged files and, unless `unverified`, other counts than published.
    """
    if path.is_file() or (path / TRAIN.name).is_file():
        source: Source = _open_tars(path, rule, unverified)
    else:
        source = ImageFolderSource(path, rule, horizontal_flip_safe=True)
    if not unverified:
        check_counts(path, source.facts.splits, COUNTS)
    return source


def _open_tars(path: Path, rule: ImageRule, unverified: bool) -> Source:
    folder = path if path.is_dir() else path.parent
    train = path / TRAIN.name if path.is_dir() else path
    archives, classes, files = {"train": train}, None, [(train, TRAIN)]
    if (folder / VALIDATION.name).is_file():
        if not (folder / DEVKIT.name).is_file():
            raise UsageError(
                f"{folder / VALIDATION.name} does not tell its classes: put {DEVKIT.name} beside it, or move"
                " it away to prepare the training images alone"
            )
        archives["validation"] = folder / VALIDATION.name
        classes = validation_classes(folder / DEVKIT.name)
        files += [(folder / VALIDATION.name, VALIDATION), (folder / DEVKIT.name, DEVKIT)]
    return ImageTarSource(
        archives,
        rule,
        horizontal_flip_safe=True,
        class_of_file=classes,
        published=() if unverified else files,
    )
