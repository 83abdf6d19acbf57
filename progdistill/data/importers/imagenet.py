"""ImageNet from its full-size files: the published tars, or folders of images."""

import io
import tarfile
from pathlib import Path
from typing import Final

from progdistill.data.importers.common import PublishedFile, check_counts, explain_damage, read_member
from progdistill.data.importers.image_folder import ImageFolderSource
from progdistill.data.importers.image_tar import ImageTarSource
from progdistill.data.preprocess import Preprocessing
from progdistill.data.source import Source
from progdistill.errors import UsageError

COUNTS: Final = {"train": 1_281_167, "validation": 50_000}

TRAIN: Final = PublishedFile("ILSVRC2012_img_train.tar", "1d675b47d978889d74fa0da5fadfb00e")
VALIDATION: Final = PublishedFile("ILSVRC2012_img_val.tar", "29b22e2961454d5413ddabcf34fc5622")
DEVKIT: Final = PublishedFile("ILSVRC2012_devkit_t12.tar.gz", "fa75699e90414af021442c21a62c3abf")
"""With the MD5 that torchvision.datasets.imagenet checks."""

META_FILE: Final = "ILSVRC2012_devkit_t12/data/meta.mat"
TRUTH_FILE: Final = "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"


def open_imagenet(path: Path, preprocessing: Preprocessing, *, unverified: bool) -> Source:
    """Open the folder of the tars, the training tar, or a folder with `train/<class>/` and `val/<class>/`."""
    if path.is_file() or (path / TRAIN.name).is_file():
        source: Source = _open_tars(path, preprocessing, unverified)
    else:
        source = ImageFolderSource(path, preprocessing, horizontal_flip_safe=True)
    if not unverified:
        check_counts(path, source.facts.splits, COUNTS)
    return source


def _open_tars(path: Path, preprocessing: Preprocessing, unverified: bool) -> Source:
    folder = path if path.is_dir() else path.parent
    train = path / TRAIN.name if path.is_dir() else path
    archives, classes, files = {"train": train}, None, [(train, TRAIN)]
    if (folder / VALIDATION.name).is_file():
        if not (folder / DEVKIT.name).is_file():
            raise UsageError(
                f"{folder / VALIDATION.name} needs {DEVKIT.name} beside it: add it, or move that file away"
            )
        archives["validation"] = folder / VALIDATION.name
        classes = validation_classes(folder / DEVKIT.name)
        files += [(folder / VALIDATION.name, VALIDATION), (folder / DEVKIT.name, DEVKIT)]
    return ImageTarSource(
        archives, preprocessing, horizontal_flip_safe=True, class_of_file=classes, published=() if unverified else files
    )


def validation_classes(devkit: Path) -> dict[str, str]:
    """Return the WordNet ID (`n01440764`) of each validation image by file name."""
    from scipy.io import loadmat  # Slow to import.

    problem = "truncated or not ImageNet's development kit"
    errors = (tarfile.TarError, EOFError, OSError, KeyError, ValueError)
    with explain_damage(devkit, problem, errors), tarfile.open(devkit) as archive:
        truth = read_member(archive, TRUTH_FILE)
        synsets = loadmat(io.BytesIO(read_member(archive, META_FILE)), squeeze_me=True)["synsets"]
        wordnet_ids = {
            int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets if int(synset["num_children"]) == 0
        }
        return {
            f"ILSVRC2012_val_{number:08d}.JPEG": wordnet_ids[int(line)]
            for number, line in enumerate(truth.split(), start=1)
        }
