"""The development kit of ImageNet (ILSVRC 2012): the classes of the validation images.

Format: readme.txt of ILSVRC2012_devkit_t12.tar.gz. `data/meta.mat` holds `synsets` with ILSVRC2012_ID, WNID,
words, gloss, num_children, …; the 1,000 classes are those without children. Line k of
`data/ILSVRC2012_validation_ground_truth.txt` is the ILSVRC2012_ID of ILSVRC2012_val_<k, eight digits>.JPEG.
"""

import io
import tarfile
from pathlib import Path

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
