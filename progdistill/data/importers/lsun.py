"""LSUN scenes as published: one LMDB database a category and split, with a JPEG or WebP file a key.

Format: https://github.com/fyu/lsun: `bedroom_train_lmdb.zip` unpacks to `bedroom_train_lmdb/data.mdb` (and
`lock.mdb`); keys are 40 hexadecimal digits, values are encoded images whose smaller side is 256 pixels.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from progdistill.data.importers.published import check_counts
from progdistill.data.preprocess import ImageRule, decode_image
from progdistill.data.source import SourceFacts, SourceImage
from progdistill.errors import UsageError

COUNTS: Final = {
    "bedroom": {"train": 3_033_042, "validation": 300},
    "church_outdoor": {"train": 126_227, "validation": 300},
}
"""Images of each category, as the dataset's page and its downloads have them."""

_SPLIT_NAMES: Final = {"train": "train", "val": "validation"}


class LsunSource:
    """Splits train and, if it is there, validation of one category, in the order of keys; no classes."""

    def __init__(self, path: Path, category: str, rule: ImageRule, *, unverified: bool) -> None:
        """`path`: the folder that holds `<category>_train_lmdb`, or that folder itself.

        `rule` has an image size. Raises UsageError for a missing or damaged database and, unless
        `unverified`, other counts.
        """
        assert rule.image_size is not None
        self._category, self._rule, self._size = category, rule, rule.image_size
        self._path, self._databases = path, _databases(path, category)
        self._counts = {split: _entries(database) for split, database in self._databases.items()}
        if not unverified:
            check_counts(path, self._counts, COUNTS[category])

    @property
    def facts(self) -> SourceFacts:
        """See Source."""
        return SourceFacts(
            importer="lsun",
            location=str(self._path),
            description=self._rule.describe(),
            identity={
                "category": self._category,
                "sizes": {
                    split: (path / "data.mdb").stat().st_size for split, path in self._databases.items()
                },
                "counts": dict(self._counts),
                "rule": self._rule.model_dump(mode="json"),
            },
            channels=self._rule.channels,
            image_size=self._size,
            class_names=(),
            horizontal_flip_safe=True,
            splits=self._counts,
        )

    def verify(self) -> None:
        """See Source: no checksum is published."""

    def read(self, split: str, start: int) -> Iterator[SourceImage]:
        """See Source."""
        with _opened(self._databases[split]) as environment, environment.begin(buffers=False) as transaction:
            cursor = transaction.cursor()
            for number, key in enumerate(cursor.iternext(keys=True, values=False)):
                if number >= start:
                    data = bytes(cursor.value())
                    yield SourceImage(f"{split}/{key.decode()}", 0, partial(decode_image, data, self._rule))


def _databases(path: Path, category: str) -> dict[str, Path]:
    if (path / "data.mdb").is_file():
        return {"train": path}
    found = {
        split: path / f"{category}_{name}_lmdb"
        for name, split in _SPLIT_NAMES.items()
        if (path / f"{category}_{name}_lmdb" / "data.mdb").is_file()
    }
    if "train" not in found:
        raise UsageError(
            f"{path} has no {category}_train_lmdb/data.mdb: unpack {category}_train_lmdb.zip there first"
        )
    return found


def _entries(path: Path) -> int:
    with _opened(path) as environment:
        return int(environment.stat()["entries"])


def _opened(path: Path) -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise UsageError("LSUN's databases need the package lmdb: pip install lmdb") from error
    try:
        return lmdb.open(str(path), readonly=True, lock=False, readahead=False, max_readers=1)
    except lmdb.Error as error:
        raise UsageError(f"{path} is truncated or no LMDB database: {error}") from error
