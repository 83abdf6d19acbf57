"""Finds a prepared dataset by its name, folder or URI, and says what to do when there is none."""

import difflib
import itertools
import os
from pathlib import Path

from progdistill.data.catalog import CATALOG, prepare_line
from progdistill.data.image_names import is_image_name
from progdistill.data.manifest import DatasetManifest, read_manifest
from progdistill.errors import LostInvariantError, UsageError
from progdistill.models_base import Frozen
from progdistill.registry.checkpoint import UNKNOWN_DATASET
from progdistill.store.open import open_store


class DatasetInfo(Frozen):
    """A prepared dataset: where it is and what a model needs to know of it."""

    name: str
    location: str
    """The folder's absolute path, or s3://bucket/prefix."""
    fingerprint: str
    """SHA-256 over shape, classes, pixels and labels: equal on every machine for equal data."""
    channels: int
    image_size: int
    """Height and width in pixels."""
    num_classes: int
    """0: the images have no classes, and every label is 0."""
    class_names: tuple[str, ...]
    splits: dict[str, int]
    """Images of each split."""
    class_counts: tuple[int, ...] = ()
    """Images of each class in the split `train`; empty where there are no classes."""
    horizontal_flip_safe: bool
    """Whether a mirrored image is as plausible as the image."""


def default_data_root() -> Path:
    """The folder of prepared datasets: `PROGDISTILL_DATA`, else `.progdistill/data`."""
    return Path(os.environ.get("PROGDISTILL_DATA") or ".progdistill/data")


def find_dataset(name_or_location: str, data_root: Path) -> DatasetInfo:
    """Find a dataset by name under `data_root`, or by its folder or URI; `digits` is prepared on first use.

    Raises UsageError with what exists, what to get and the command that prepares it.
    """
    if "://" in name_or_location:
        places = [name_or_location]
    elif "/" in name_or_location:
        places = [str(Path(name_or_location).expanduser())]
    else:
        places = [str(data_root / name_or_location), name_or_location]
    for place in places:
        if (info := _opened(place)) is not None:
            return info
    if name_or_location == "digits":
        return _prepared_digits(data_root / name_or_location)
    raise _not_found(name_or_location, data_root)


def known_datasets(data_root: Path) -> list[DatasetInfo]:
    """The datasets prepared under a folder, by name."""
    folders = sorted(data_root.iterdir()) if data_root.is_dir() else []
    return [info for folder in folders if (info := _opened(str(folder))) is not None]


def info_of(manifest: DatasetManifest, location: str) -> DatasetInfo:
    """What a manifest says, with where it stands."""
    return DatasetInfo(
        name=manifest.name,
        location=location,
        fingerprint=manifest.fingerprint,
        channels=manifest.channels,
        image_size=manifest.image_size,
        num_classes=len(manifest.class_names),
        class_names=manifest.class_names,
        splits=manifest.counts,
        class_counts=_class_counts(manifest),
        horizontal_flip_safe=manifest.horizontal_flip_safe,
    )


def _class_counts(manifest: DatasetManifest) -> tuple[int, ...]:
    statistics = manifest.statistics.get("train")
    return () if statistics is None else statistics.class_counts


def manifest_of(info: DatasetInfo) -> DatasetManifest:
    """The manifest behind `info`, which must still be of the same data.

    Raises UsageError when the dataset is gone, LostInvariantError when it was replaced by another.
    """
    manifest = read_manifest(open_store(info.location))
    if manifest is None:
        raise UsageError(f"dataset {info.name} is no longer at {info.location}")
    if manifest.fingerprint != info.fingerprint:
        raise LostInvariantError(
            f"{info.location} now holds other data: fingerprint {manifest.fingerprint}, expected"
            f" {info.fingerprint} of {info.name}: prepare the original source again"
        )
    return manifest


def is_data_of(info: DatasetInfo, fingerprint: str) -> bool:
    """Whether `info` is the data with that fingerprint, as far as that is known."""
    return fingerprint in (info.fingerprint, UNKNOWN_DATASET)


def require_data_of(info: DatasetInfo, fingerprint: str, checkpoint: str) -> None:
    """Raise UsageError with both fingerprints unless `info` is the data that a checkpoint was trained on."""
    if not is_data_of(info, fingerprint):
        raise UsageError(
            f"{checkpoint} was trained on data with fingerprint {fingerprint}, but {info.name} in"
            f" {info.location} has {info.fingerprint}: say with --dataset which data to use, or prepare"
            " the original files again"
        )


def _opened(location: str) -> DatasetInfo | None:
    store = open_store(location)
    manifest = read_manifest(store)
    return None if manifest is None else info_of(manifest, store.uri)


def _prepared_digits(folder: Path) -> DatasetInfo:
    from progdistill.data.importers.digits import DigitsSource
    from progdistill.data.prepare import prepare

    try:
        manifest = prepare(DigitsSource(), "digits", str(folder), staging_root=folder.parent)
    except OSError as error:
        raise UsageError(
            f"cannot prepare digits in {folder}: {error.strerror}; name a writable folder in PROGDISTILL_DATA"
        ) from error
    return info_of(manifest, open_store(str(folder)).uri)


def _not_found(name_or_location: str, data_root: Path) -> UsageError:
    if "://" in name_or_location:
        return UsageError(
            f"no prepared dataset at {name_or_location}: prepare one there with"
            f" `progdistill data prepare NAME --source PATH --out {name_or_location}`"
        )
    path = Path(name_or_location).expanduser()
    if name_or_location in CATALOG or not (path.exists() or "/" in name_or_location):
        return _unknown(name_or_location, data_root)
    if not path.exists():
        return UsageError(f"there is no {path}: name a prepared dataset's folder")
    if not _has_images(path):
        return UsageError(
            f"{path} is no prepared dataset (it has no manifest.json): prepare one with"
            " `progdistill data prepare NAME --source PATH`"
        )
    return UsageError(
        f"{path} is a folder of images, which must be prepared once:"
        f" `progdistill data prepare {path.absolute().name} --source {path}`"
    )


def _has_images(folder: Path) -> bool:
    """Whether there are image files in a folder or in its subfolders."""
    inside = itertools.chain(folder.glob("*"), folder.glob("*/*"))
    return any(is_image_name(child.name) for child in inside)


def _unknown(name: str, data_root: Path) -> UsageError:
    if name in CATALOG:
        known = CATALOG[name]
        return UsageError(
            f"dataset {name} ({known.title}) is not prepared in {data_root}.\n"
            f"Get {known.files}.\nThen run: {prepare_line(name)}"
        )
    prepared = [info.name for info in known_datasets(data_root)]
    names = sorted({*CATALOG, *prepared})
    near = difflib.get_close_matches(name, names, n=1)
    suggestion = f"; did you mean {near[0]}?" if near else ""
    return UsageError(
        f"unknown dataset {name!r}{suggestion}\nDatasets are {', '.join(names)}, or the folder or URI of a"
        f" prepared one. Prepare your own with: progdistill data prepare NAME --source PATH"
    )
