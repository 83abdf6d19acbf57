"""Columns: the named tensors that a dataset stores for each sample and that a network is conditioned on."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import StringConstraints

from progdistill.models_base import Frozen

IMAGE: Final = "image"
LABEL: Final = "label"
CAPTION: Final = "caption"
"""UTF-8 in a row of bytes, filled up with zeros."""

MAX_CAPTION_BYTES: Final = 4096
"""Longer captions are cut: no text encoder reads that much."""

LATENT_MEAN: Final = "latent_mean"
LATENT_STD: Final = "latent_std"
"""Latents as their pipeline scales them before the network, [channels, height, width]; a dataset of an encoder
without a standard deviation has the mean alone."""

Rows = Mapping[str, NDArray[Any]]
"""By column: [count, *shape], in the column's dtype."""


class Column(Frozen):
    """A tensor of each sample; a batch has [batch, *shape]."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
    shape: tuple[int, ...] = ()
    dtype: Literal["int64", "float32", "float16", "bool", "uint8"] = "float32"

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """In memory and on disk: little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample."""
        return prod(self.shape) * self.numpy_dtype.itemsize


LABEL_COLUMN: Final = Column(name=LABEL, dtype="int64")


def is_condition(column: Column) -> bool:
    """Whether a network may be conditioned on it, unlike images, latents and captions."""
    return column.name not in (IMAGE, CAPTION, LATENT_MEAN, LATENT_STD)


def caption_bytes(captions: Sequence[str], width: int) -> NDArray[np.uint8]:
    """Captions as rows of the column `caption`: uint8 [count, width]; each is cut after its last whole character."""
    rows = np.zeros((len(captions), width), np.uint8)
    for row, caption in zip(rows, captions, strict=True):
        text = caption.encode()[:width].decode(errors="ignore").encode()
        row[: len(text)] = np.frombuffer(text, np.uint8)
    return rows


def captions_of(rows: NDArray[np.uint8]) -> list[str]:
    """The texts in rows of the column `caption`, uint8 [count, width]."""
    return [row.tobytes().rstrip(b"\0").decode() for row in rows]


def caption_width(captions: Iterable[str]) -> int:
    """Bytes of the longest caption, in steps of 8, at most `MAX_CAPTION_BYTES`."""
    longest = max((len(caption.encode()) for caption in captions), default=1)
    return min(MAX_CAPTION_BYTES, 8 * max(1, -(-longest // 8)))
