"""Small files in the exact published formats, made from a test's images."""

import io
import json
import pickle
import struct
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


def random_images(count: int, size: int, seed: int = 0, classes: int = 10) -> tuple[Images, Labels]:
    """Noise: uint8 [count, size, size, 3], and labels, of which each class has some."""
    source = np.random.default_rng(seed)
    images = source.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return images, source.permutation(np.arange(count) % classes)


def planes(images: Images) -> Images:
    """The layout of CIFAR-10 and of downsampled ImageNet: a row an image, red, green, blue, row by row."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)


def encoded(image: Images, kind: str = "PNG") -> bytes:
    """An image file."""
    file = io.BytesIO()
    Image.fromarray(np.squeeze(image)).save(file, format=kind)
    return file.getvalue()


class _Python2Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Writes texts and bytes as Python 2 wrote its only strings: the published files are from then."""

    dispatch = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_string(self, value: bytes | str) -> None:
        data = value.encode("ascii") if isinstance(value, str) else value
        if len(data) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(value)

    dispatch[bytes] = save_string
    dispatch[str] = save_string


def python2_pickle(value: Any) -> bytes:
    """Pickle as `cPickle.dump(value, file, 2)` with the numpy of that time."""
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar10_files(batches: Sequence[tuple[Images, Labels]], test: tuple[Images, Labels]) -> dict[str, bytes]:
    """The files of `cifar-10-batches-py`."""
    names = [f"data_batch_{number}" for number in range(1, len(batches) + 1)]
    files = {}
    for name, (images, labels) in zip([*names, "test_batch"], [*batches, test], strict=True):
        batch = {
            "batch_label": f"{name} of cifar",
            "labels": labels.tolist(),
            "data": planes(images),
            "filenames": [f"image_{number}.png" for number in range(len(labels))],
        }
        files[name] = python2_pickle(batch)
    meta = {"num_cases_per_batch": 10000, "label_names": list(CIFAR10_NAMES), "num_vis": 3072}
    return files | {"batches.meta": python2_pickle(meta), "readme.html": b"<html></html>"}


def cifar10_binary_files(batches: Sequence[tuple[Images, Labels]], test: tuple[Images, Labels]) -> dict[str, bytes]:
    """The files of `cifar-10-batches-bin`."""
    names = [f"data_batch_{number}.bin" for number in range(1, len(batches) + 1)]
    files = {}
    for name, (images, labels) in zip([*names, "test_batch.bin"], [*batches, test], strict=True):
        files[name] = np.hstack([labels.astype(np.uint8)[:, None], planes(images)]).tobytes()
    return files | {"batches.meta.txt": "\n".join([*CIFAR10_NAMES, "", ""]).encode(), "readme.html": b""}


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    """An archive of named files, in that order."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def tar_bytes(files: dict[str, bytes]) -> bytes:
    """An archive inside an archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def imagenet_npz(path: Path, images: Images, labels: Labels) -> None:
    """`train_data_batch_<k>.npz` or `val_data.npz`; labels count from 1."""
    np.savez(path, data=planes(images), labels=labels + 1, mean=planes(images).mean(axis=0))


def imagenet_pickle(path: Path, images: Images, labels: Labels, dump: Callable[[Any], bytes]) -> None:
    """`train_data_batch_<k>` or `val_data`: a dictionary with a list of labels that count from 1."""
    batch = {"data": planes(images), "labels": (labels + 1).tolist(), "mean": planes(images).mean(axis=0)}
    path.write_bytes(dump(batch))


def devkit_tar(path: Path, wordnet_ids: Sequence[str], truth: Iterable[int]) -> Path:
    """`ILSVRC2012_devkit_t12.tar.gz`: synsets, with an inner node behind them, and validation classes."""
    fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height"]
    rows = [(number, name, f"word {name}", "", 0, [], 0) for number, name in enumerate(wordnet_ids, start=1)]
    rows.append((len(rows) + 1, "n00000001", "entity", "", 2, [1, 2], 3))
    synsets = np.array([tuple(row) for row in rows], dtype=[(name, object) for name in fields])
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets[:, None]})
    folder = "ILSVRC2012_devkit_t12/data"
    files = {
        f"{folder}/meta.mat": meta.getvalue(),
        f"{folder}/ILSVRC2012_validation_ground_truth.txt": "".join(f"{number}\n" for number in truth).encode(),
    }
    return write_tar(path, files, "w:gz")


def lsun_database(path: Path, images: dict[str, bytes]) -> None:
    """`<category>_<split>_lmdb`: encoded images under keys of 40 hexadecimal digits."""
    with lmdb.open(str(path), map_size=2**26) as environment, environment.begin(write=True) as transaction:
        for key, data in images.items():
            transaction.put(key.encode(), data)


def huggingface_parquet(
    path: Path, images: Sequence[bytes], labels: Labels, names: Sequence[str], rows_per_group: int = 100
) -> None:
    """A file as `datasets.Dataset.to_parquet` writes it."""
    image = pa.array(
        [{"bytes": data, "path": f"{number}.png"} for number, data in enumerate(images)],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema([("image", image.type), ("label", pa.int64())], metadata=metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table([image, pa.array(labels)], schema=schema), path, row_group_size=rows_per_group)
