"""The known datasets: what each one is, and which official files it is prepared from."""

from typing import Final, NamedTuple

UNKNOWN_DATASET: Final = "unknown"
"""Name and fingerprint of the dataset of an imported model that does not state what it was trained on."""


class KnownDataset(NamedTuple):
    """A dataset that can be prepared by name."""

    title: str
    files: str
    """The official files to get, and where."""
    example_source: str | None
    """An example of `--source`. None: no files are needed."""


CATALOG: Final = {
    "digits": KnownDataset("1,797 handwritten digits of 8×8 pixels", "none: scikit-learn ships them", None),
    "cifar10": KnownDataset(
        "CIFAR-10: 60,000 photographs of 32×32 pixels in 10 classes",
        "cifar-10-python.tar.gz (or cifar-10-binary.tar.gz) from https://www.cs.toronto.edu/~kriz/cifar.html",
        "cifar-10-python.tar.gz",
    ),
    "emoji": KnownDataset(
        "3,786 emoji of 32×32 pixels (or 16, 64) with names and 10 categories",
        "emoji-datasource-google-16.0.0.tgz with `npm pack emoji-datasource-google@16.0.0`",
        "emoji-datasource-google-16.0.0.tgz",
    ),
    "imagenet64": KnownDataset(
        "ImageNet at 64×64 pixels: 1,281,167 photographs in 1,000 classes",
        "Imagenet64_train_part1_npz.zip, Imagenet64_train_part2_npz.zip and Imagenet64_val_npz.zip from"
        " https://image-net.org/download-images (downsampled image data, free login), unpacked into one folder; or"
        " ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz from the same site, to be"
        " resized to 64×64",
        "FOLDER",
    ),
    "lsun_bedroom": KnownDataset(
        "LSUN bedroom at 128×128 pixels: 3,033,042 photographs without classes",
        "bedroom_train_lmdb.zip and bedroom_val_lmdb.zip from http://dl.yf.io/lsun/scenes/, unpacked into one folder",
        "FOLDER",
    ),
    "lsun_church": KnownDataset(
        "LSUN church outdoor at 128×128 pixels: 126,227 photographs without classes",
        "church_outdoor_train_lmdb.zip and church_outdoor_val_lmdb.zip from http://dl.yf.io/lsun/scenes/,"
        " unpacked into one folder",
        "FOLDER",
    ),
}
"""By the name that `--dataset` takes."""


def prepare_command(name: str) -> str:
    """Return the command that prepares a known dataset."""
    source = CATALOG[name].example_source
    return f"progdistill data prepare {name}" + (f" --source {source}" if source else "")
