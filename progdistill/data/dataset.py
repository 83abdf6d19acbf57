"""Which datasets there are, and how a name or a folder becomes one. No torch, no scikit-learn."""

from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from progdistill.data.stored import MANIFEST, Manifest, read_manifest
from progdistill.errors import UsageError


class Source(NamedTuple):
    """Where a known dataset's official files come from."""

    files: str
    page: str


DIGITS = "digits"
SOURCES = {
    "cifar10": Source("cifar-10-binary.tar.gz", "https://www.cs.toronto.edu/~kriz/cifar.html"),
    "imagenet64": Source(
        "the 64×64 npz archives of downsampled ImageNet (train part 1, train part 2, validation)",
        "https://image-net.org/download-images",
    ),
    "lsun_bedroom": Source("bedroom_train_lmdb.zip and bedroom_val_lmdb.zip", "https://www.yf.io/p/lsun"),
    "lsun_church": Source(
        "church_outdoor_train_lmdb.zip and church_outdoor_val_lmdb.zip", "https://www.yf.io/p/lsun"
    ),
}
KNOWN_NAMES = (DIGITS, *SOURCES)


class DatasetInfo(BaseModel):
    """A prepared dataset: its place and what it holds. Pixels are uint8; `num_classes` 0 means no labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    location: str
    """The absolute path of the dataset's folder."""
    fingerprint: str
    """SHA-256 of the content, the same wherever and however often it is prepared."""
    channels: int
    image_size: int
    """Height and width, in pixels."""
    num_classes: int
    class_names: tuple[str, ...]
    splits: dict[str, int]
    """Images of each split."""
    horizontal_flip_safe: bool
    """Whether a mirrored image is still an image of its class."""


def find_dataset(name_or_location: str, data_root: Path) -> DatasetInfo:
    """The dataset of that name under `data_root`, or the one in that folder; `digits` is prepared if missing.

    Raises:
        UsageError: no such dataset is prepared; the message says what to do.
        LostInvariantError: its manifest is damaged.
    """
    if name_or_location not in KNOWN_NAMES:
        return _in_folder(name_or_location, data_root)
    folder = data_root / name_or_location
    if (folder / MANIFEST).exists():
        return _info(folder, read_manifest(folder))
    if name_or_location == DIGITS:
        return _info(folder, _prepare_digits(folder))
    raise UsageError(_how_to_get(name_or_location, data_root))


def _prepare_digits(folder: Path) -> Manifest:
    from progdistill.data.digits import prepare_digits  # scikit-learn, only on first use

    try:
        return prepare_digits(folder)
    except OSError as error:
        raise UsageError(
            f"cannot prepare digits in {folder}: {error}; name a writable folder in PROGDISTILL_DATA"
        ) from error


def _in_folder(location: str, data_root: Path) -> DatasetInfo:
    scheme, separator, rest = location.partition("://")
    if separator and scheme != "file":
        raise UsageError(
            f"dataset {location!r}: only local folders can be read, not {scheme}://; copy it here first"
        )
    folder = Path(rest if separator else location).expanduser()
    if folder.is_dir():
        return _info(folder, read_manifest(folder))
    raise UsageError(
        f"no dataset {location!r}: it is neither a folder nor a known name ({', '.join(KNOWN_NAMES)});"
        f" prepared in {data_root}: {_prepared(data_root)}"
    )


def _how_to_get(name: str, data_root: Path) -> str:
    source = SOURCES[name]
    return (
        f"dataset {name} is not prepared (in {data_root}: {_prepared(data_root)}). Its official files are"
        f" {source.files}, from {source.page}; `progdistill data prepare {name} --source PATH` is the line"
        " that imports them, but importing is not in this version yet: use digits, or name a folder that"
        " already holds the dataset in stored form"
    )


def _prepared(data_root: Path) -> str:
    names = sorted(path.parent.name for path in data_root.glob(f"[!.]*/{MANIFEST}"))
    return ", ".join(names) or "nothing"


def _info(folder: Path, manifest: Manifest) -> DatasetInfo:
    return DatasetInfo(
        location=str(folder.resolve()),
        fingerprint=manifest.fingerprint,
        splits=manifest.splits(),
        **manifest.description.model_dump(),
    )
