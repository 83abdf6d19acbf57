"""Finds prepared datasets by name, folder or URI, and explains how to prepare one that is missing."""

import difflib
import itertools
import os
from pathlib import Path

from progdistill.data.catalog import CATALOG, UNKNOWN_DATASET, prepare_command
from progdistill.data.manifest import DatasetManifest, read_manifest
from progdistill.data.source import ImageFacts, is_image_name
from progdistill.errors import LostInvariantError, ProgdistillError, UsageError
from progdistill.store.digest import Sha256
from progdistill.store.documents import collect_errors
from progdistill.store.open import open_store


class DatasetInfo(ImageFacts):
    """A prepared dataset: its location and what a model needs to know about it."""

    name: str
    location: str
    """Absolute path of its folder, or s3://bucket/prefix."""
    fingerprint: str
    """SHA-256 over shape, classes, pixels and labels: equal on every machine for equal data."""
    num_classes: int
    """0: the images have no classes, and every label is 0."""
    splits: dict[str, int]
    """Number of images in each split."""
    class_counts: tuple[int, ...] = ()
    """Number of images in each class of the split `train`; empty if there are no classes."""
    encoded_by: Sha256 | None = None
    """Id of the pipeline whose encoders made the columns; None: they were not encoded."""
    has_unconditional: bool = False
    """Whether it holds the columns of the empty prompt."""


def default_data_root() -> Path:
    """Return the folder of prepared datasets: `$PROGDISTILL_DATA`, by default `.progdistill/data`."""
    return Path(os.environ.get("PROGDISTILL_DATA") or ".progdistill/data")


def find_dataset(name_or_location: str, data_root: Path) -> DatasetInfo:
    """Find a prepared dataset. `digits` is prepared on first use.

    Args:
        name_or_location: A name under `data_root`, a folder, or a URI.
        data_root: The folder of prepared datasets.

    Raises:
        UsageError: Not found. The message lists what exists, what to download and the command to run.
        LostInvariantError: The manifest is damaged.
    """
    if "://" in name_or_location:
        locations = [name_or_location]
    elif "/" in name_or_location:
        locations = [str(Path(name_or_location).expanduser())]
    else:
        locations = [str(data_root / name_or_location), name_or_location]
    for location in locations:
        if (info := _open(location)) is not None:
            return info
    if name_or_location == "digits":
        return _prepare_digits(data_root / name_or_location)
    raise _not_found(name_or_location, data_root)


def known_datasets(data_root: Path, unreadable: list[ProgdistillError]) -> list[DatasetInfo]:
    """Return the datasets prepared under a folder, by name.

    The error of one that cannot be read is appended to `unreadable`.
    """
    found = []
    for folder in sorted(data_root.iterdir()) if data_root.is_dir() else []:
        with collect_errors(unreadable):
            if (info := _open(str(folder))) is not None:
                found.append(info)
    return found


def info_of(manifest: DatasetManifest, location: str) -> DatasetInfo:
    """Return the description of the dataset with this manifest at `location`."""
    train = manifest.statistics.get("train")
    return DatasetInfo(
        name=manifest.name,
        location=location,
        fingerprint=manifest.fingerprint,
        channels=manifest.channels,
        image_size=manifest.image_size,
        num_classes=len(manifest.class_names),
        class_names=manifest.class_names,
        splits=manifest.counts,
        class_counts=() if train is None else train.class_counts,
        horizontal_flip_safe=manifest.horizontal_flip_safe,
        columns=manifest.columns,
        encoded_by=manifest.encoded_by,
        has_unconditional=manifest.unconditional is not None,
    )


def manifest_of(info: DatasetInfo) -> DatasetManifest:
    """Read the manifest of a dataset. Raises UsageError if it is gone, LostInvariantError if it was replaced."""
    manifest = read_manifest(open_store(info.location))
    if manifest is None:
        raise UsageError(f"dataset {info.name} is no longer at {info.location}")
    if manifest.fingerprint != info.fingerprint:
        raise LostInvariantError(
            f"{info.location} now holds other data: fingerprint {manifest.fingerprint}, expected {info.fingerprint}"
            f" of {info.name}: prepare the original source again"
        )
    return manifest


def is_data_of(info: DatasetInfo, fingerprint: str) -> bool:
    """Whether a dataset has this fingerprint, or the fingerprint is unknown."""
    return fingerprint in (info.fingerprint, UNKNOWN_DATASET)


def require_data_of(info: DatasetInfo, fingerprint: str, checkpoint: str) -> None:
    """Raise UsageError, with both fingerprints, unless `checkpoint` was trained on this dataset."""
    if not is_data_of(info, fingerprint):
        raise UsageError(
            f"{checkpoint} was trained on data with fingerprint {fingerprint}, but {info.name} in {info.location} has"
            f" {info.fingerprint}: choose the dataset with --dataset, or prepare the original files again"
        )


def _open(location: str) -> DatasetInfo | None:
    store = open_store(location)
    manifest = read_manifest(store)
    return None if manifest is None else info_of(manifest, store.uri)


def _prepare_digits(folder: Path) -> DatasetInfo:
    from progdistill.data.importers.digits import DigitsSource
    from progdistill.data.prepare import prepare

    try:
        manifest = prepare(DigitsSource(), "digits", str(folder), staging_root=folder.parent)
    except OSError as error:
        remedy = "set PROGDISTILL_DATA to a writable folder"
        raise UsageError(f"cannot prepare digits in {folder}: {error.strerror}; {remedy}") from error
    return info_of(manifest, open_store(str(folder)).uri)


def _not_found(name_or_location: str, data_root: Path) -> UsageError:
    command = "progdistill data prepare NAME --source PATH"
    if "://" in name_or_location:
        return UsageError(f"no prepared dataset at {name_or_location}: prepare it with `{command} --out URI`")
    path = Path(name_or_location).expanduser()
    if name_or_location in CATALOG or not (path.exists() or "/" in name_or_location):
        return _unknown(name_or_location, data_root)
    if not path.exists():
        return UsageError(f"{path} does not exist: give the folder of a prepared dataset")
    if any(is_image_name(child.name) for child in itertools.chain(path.glob("*"), path.glob("*/*"))):
        command = f"progdistill data prepare {path.absolute().name} --source {path}"
        return UsageError(f"{path} is a folder of images, which must be prepared once: `{command}` (docs/data.md)")
    return UsageError(
        f"{path} is not a prepared dataset (it has no manifest.json): prepare one with `{command}` (docs/data.md)"
    )


def _unknown(name: str, data_root: Path) -> UsageError:
    if (known := CATALOG.get(name)) is not None:
        return UsageError(
            f"dataset {name} ({known.title}) is not prepared in {data_root}.\n"
            f"Get {known.files} (docs/data.md).\nThen run: {prepare_command(name)}"
        )
    names = sorted({*CATALOG, *(info.name for info in known_datasets(data_root, []))})
    suggestion = "".join(f"; did you mean {near}?" for near in difflib.get_close_matches(name, names, n=1))
    return UsageError(
        f"unknown dataset {name!r}{suggestion}\nDatasets are {', '.join(names)}, or the folder or URI of a prepared"
        " one. Prepare your own with: progdistill data prepare NAME --source PATH (docs/quickstart/images.md)"
    )
