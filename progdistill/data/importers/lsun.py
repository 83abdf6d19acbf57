"""LSUN scenes as published: one LMDB database per category and split, with a JPEG or WebP file per key.

Format: https://github.com/fyu/lsun: `bedroom_train_lmdb.zip` unpacks to `bedroom_train_lmdb/data.mdb` (and `lock.mdb`);
keys are 40 hexadecimal digits, values are encoded images whose smaller side is 256 pixels.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from progdistill.data.importers.common import check_counts, explain_damage, native_size
from progdistill.data.preprocess import Preprocessing, decode_image
from progdistill.data.source import Source, SourceFacts, SourceImage
from progdistill.errors import UsageError

COUNTS: Final = {
    "bedroom": {"train": 3_033_042, "validation": 300},
    "church_outdoor": {"train": 126_227, "validation": 300},
}
"""Images of each category, as the dataset's page and its downloads have them."""


class LsunSource(Source):
    """Splits train and, if present, validation of one category, in the order of keys; no classes."""

    def __init__(self, path: Path, category: str, preprocessing: Preprocessing, *, unverified: bool) -> None:
        """Open the folder that holds `<category>_train_lmdb`, or that folder; `unverified` accepts other counts."""
        self._preprocessing, self._databases = preprocessing, _find_databases(path, category)
        splits = {}
        for split, database in self._databases.items():
            with _open(database) as environment:
                splits[split] = int(environment.stat()["entries"])
        if not unverified:
            check_counts(path, splits, COUNTS[category])
        self.facts = SourceFacts(
            importer="lsun",
            location=str(path),
            description=preprocessing.describe(),
            identity={
                "category": category,
                "sizes": {split: (database / "data.mdb").stat().st_size for split, database in self._databases.items()},
                "counts": dict(splits),
                "preprocessing": preprocessing.model_dump(mode="json"),
            },
            channels=preprocessing.channels,
            image_size=preprocessing.image_size or native_size(self.read("train"), str(path)),
            class_names=(),
            horizontal_flip_safe=True,
            splits=splits,
        )

    def read(self, split: str, start: int = 0) -> Iterator[SourceImage]:
        with _open(self._databases[split]) as environment, environment.begin(buffers=False) as transaction:
            cursor = transaction.cursor()
            for number, key in enumerate(cursor.iternext(keys=True, values=False)):
                if number >= start:
                    decode = partial(decode_image, bytes(cursor.value()), self._preprocessing)
                    yield SourceImage(f"{split}/{key.decode()}", 0, decode)


def _find_databases(path: Path, category: str) -> dict[str, Path]:
    if (path / "data.mdb").is_file():
        return {"train": path}
    folders = {"train": path / f"{category}_train_lmdb", "validation": path / f"{category}_val_lmdb"}
    found = {split: folder for split, folder in folders.items() if (folder / "data.mdb").is_file()}
    if "train" not in found:
        raise UsageError(f"{path} has no {category}_train_lmdb/data.mdb: unpack {category}_train_lmdb.zip there first")
    return found


def _open(path: Path) -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise UsageError("LSUN's databases need the package lmdb: pip install lmdb") from error
    with explain_damage(path, "truncated or not an LMDB database", (lmdb.Error,)):
        return lmdb.open(str(path), readonly=True, lock=False, readahead=False, max_readers=1)
