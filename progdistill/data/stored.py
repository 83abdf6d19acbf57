"""The stored form of a dataset: Arrow shards beside a `manifest.json` that names and digests each of them.

A dataset's folder appears whole or not at all: it is written under a temporary name and renamed.
"""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from progdistill.errors import LostInvariantError, UsageError

# pyarrow is imported where shards are touched: opening a dataset reads its manifest alone.

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SHARD_IMAGES = 8192

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Labels = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


class Description(BaseModel):
    """What is known of a dataset besides its pixels. `num_classes` is 0 where images have no labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    channels: int = Field(gt=0)
    image_size: int = Field(gt=0)
    num_classes: int = Field(ge=0)
    class_names: tuple[str, ...]
    horizontal_flip_safe: bool


class Shard(BaseModel):
    """One Arrow file: consecutive images of one split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # A plain file name: a manifest from elsewhere must not reach outside its folder.
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+\.arrow$")]
    split: str
    images: int = Field(gt=0)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """The record that makes a folder a dataset; written last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int
    description: Description
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    shards: tuple[Shard, ...]

    def splits(self) -> dict[str, int]:
        """Images of each split, by the split's name."""
        counts: dict[str, int] = {}
        for shard in self.shards:
            counts[shard.split] = counts.get(shard.split, 0) + shard.images
        return counts


def read_manifest(folder: Path) -> Manifest:
    """The manifest of the dataset in `folder`.

    Raises:
        UsageError: the folder holds no dataset, or one of a later format.
        LostInvariantError: the manifest is damaged.
    """
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{folder} holds no dataset: it has no {MANIFEST}") from None
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise LostInvariantError(
            f"{path} is damaged: remove {folder} and prepare it again ({error})"
        ) from error
    if manifest.format_version != FORMAT_VERSION:
        raise UsageError(
            f"{path} has format {manifest.format_version}, this version reads {FORMAT_VERSION}:"
            " prepare the dataset again with this version"
        )
    return manifest


def publish(
    folder: Path,
    description: Description,
    splits: Mapping[str, tuple[Pixels, Labels]],
    shard_images: int = SHARD_IMAGES,
) -> Manifest:
    """Store `splits` (images uint8 [n, h, w, c], labels int64 [n]) as the dataset in `folder`.

    Of several processes that publish the same content at once, one wins and all return its manifest.

    Raises:
        UsageError: the folder is taken by something else.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # On the same file system as its destination, or the rename would not be atomic.
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        manifest = _write(draft, description, splits, shard_images)
        draft.chmod(0o755)  # mkdtemp keeps others out; a data root may be shared
        try:
            draft.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            return _already_there(folder, manifest)
        _sync(folder.parent)
        return manifest
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_shard(folder: Path, description: Description, shard: Shard) -> tuple[Pixels, Labels]:
    """Images uint8 [n, h, w, c] and labels int64 [n] of one shard, checked against its digest.

    Raises:
        LostInvariantError: the shard is missing or is not what was stored; the message names it.
    """
    import pyarrow as pa

    path = folder / shard.file
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise LostInvariantError(f"{path} is missing: remove {folder} and prepare it again") from None
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        raise LostInvariantError(
            f"{path} is corrupt (its SHA-256 is not the manifest's): remove {folder} and prepare it again"
        )
    table = pa.ipc.open_file(pa.BufferReader(content)).read_all().combine_chunks()
    size = description.image_size
    shape = (shard.images, size, size, description.channels)
    column = table["image"].chunk(0)
    start = column.offset * column.type.byte_width
    pixels = np.frombuffer(column.buffers()[1], np.uint8, count=int(np.prod(shape)), offset=start)
    return pixels.reshape(shape), table["label"].to_numpy()


def content_fingerprint(description: Description, splits: Mapping[str, tuple[Pixels, Labels]]) -> str:
    """SHA-256 of what a dataset says and holds, whatever its division into shards or its Arrow version."""
    digest = hashlib.sha256(description.model_dump_json().encode())
    for split in sorted(splits):
        pixels, labels = splits[split]
        digest.update(f"\n{split} {pixels.shape}\n".encode())
        digest.update(np.ascontiguousarray(pixels, np.uint8).data)
        digest.update(np.ascontiguousarray(labels, "<i8").data)
    return digest.hexdigest()


def _write(
    draft: Path, description: Description, splits: Mapping[str, tuple[Pixels, Labels]], shard_images: int
) -> Manifest:
    shards = []
    for split, (pixels, labels) in splits.items():
        size = description.image_size
        if pixels.shape != (len(labels), size, size, description.channels):
            raise ValueError(
                f"split {split}: images {pixels.shape} do not match {len(labels)} labels, {description}"
            )
        for number, start in enumerate(range(0, len(labels), shard_images)):
            part = slice(start, start + shard_images)
            content = _arrow(pixels[part], labels[part])
            file = f"{split}-{number:05d}.arrow"
            _write_synced(draft / file, content)
            shards.append(
                Shard(
                    file=file,
                    split=split,
                    images=len(labels[part]),
                    sha256=hashlib.sha256(content).hexdigest(),
                )
            )
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        description=description,
        fingerprint=content_fingerprint(description, splits),
        shards=tuple(shards),
    )
    _write_synced(draft / MANIFEST, manifest.model_dump_json(indent=1).encode())
    _sync(draft)
    return manifest


def _arrow(pixels: Pixels, labels: Labels) -> Any:
    import pyarrow as pa

    flat = np.ascontiguousarray(pixels, np.uint8).reshape(len(pixels), -1)
    kind = pa.binary(flat.shape[1])
    images = pa.Array.from_buffers(kind, len(flat), [None, pa.py_buffer(flat.tobytes())])
    table = pa.table({"image": images, "label": pa.array(labels, pa.int64())})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _already_there(folder: Path, manifest: Manifest) -> Manifest:
    stored = read_manifest(folder)
    if stored.fingerprint != manifest.fingerprint:
        raise UsageError(f"{folder} already holds other data ({stored.description.name}): remove it first")
    return stored


def _write_synced(path: Path, content: Any) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
