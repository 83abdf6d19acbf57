"""Images for people: grids, contact sheets and their PNG files."""

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
"""[count, height, width, channels], 1 or 3 channels."""


def encode_contact_sheet(images: Pixels) -> bytes:
    """Losslessly encode images as one PNG, one below the other; equal images give equal bytes."""
    count, height, width, channels = images.shape
    return encode_png(images.reshape(count * height, width, channels))


def decode_contact_sheet(png: bytes, count: int) -> Pixels:
    """Cut a strip back into its `count` images."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    return pixels.reshape(count, pixels.shape[0] // count, *pixels.shape[1:])


def encode_png(picture: Pixels) -> bytes:
    """Encode one picture of [height, width, channels]."""
    buffer = io.BytesIO()
    Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture).save(buffer, format="PNG")
    return buffer.getvalue()


def enlarge(image: Pixels, scale: int) -> Pixels:
    """One image [height, width, channels] at `scale` times its size, smoothly: coarse pixels hide shapes."""
    if scale == 1:
        return image
    height, width, channels = image.shape
    source = Image.fromarray(image[:, :, 0] if channels == 1 else image)
    resized = source.resize((width * scale, height * scale), Image.Resampling.BICUBIC)
    return np.asarray(resized).reshape(height * scale, width * scale, channels)


def grid(images: Pixels, columns: int | None = None, *, scale: int = 1, gap: int = 2) -> Pixels:
    """Lay images out row by row on white, each enlarged smoothly by `scale`, `gap` pixels apart.

    Without `columns` the grid is as square as it can be.
    """
    count, height, width, channels = images.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    cell_height, cell_width = height * scale + gap, width * scale + gap
    picture = np.full((rows * cell_height + gap, columns * cell_width + gap, channels), 255, np.uint8)
    for index, image in enumerate(images):
        top, left = gap + index // columns * cell_height, gap + index % columns * cell_width
        picture[top : top + height * scale, left : left + width * scale] = enlarge(image, scale)
    return picture


def readable_scale(image_size: int, wanted_pixels: int = 48) -> int:
    """The whole factor at which an image is about `wanted_pixels` high, so that a person recognizes it."""
    return max(1, round(wanted_pixels / image_size))


def write_parquet(path: Path, batches: Iterable[Pixels], labels: Sequence[int] | None) -> int:
    """Write a row an image as batches arrive, and return their count.

    Columns are `index`, `image` {bytes (PNG), path} and `label`. `labels` are those of all images, in order;
    the column is left out where there are none. The file appears whole or not at all.
    """
    import pyarrow as pa
    from pyarrow import parquet

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [("index", pa.int64()), ("image", image)]
    schema = pa.schema(fields if labels is None else [*fields, ("label", pa.int64())])
    draft, count = path.with_name(path.name + ".part"), 0
    try:
        with parquet.ParquetWriter(draft, schema) as writer:
            for batch in batches:
                indices = range(count, count + len(batch))
                pictures = [
                    {"bytes": encode_png(one), "path": f"{i:06d}.png"}
                    for i, one in zip(indices, batch, strict=True)
                ]
                columns = {"index": list(indices), "image": pictures}
                if labels is not None:
                    columns["label"] = list(labels[count : count + len(batch)])
                writer.write_table(pa.table(columns, schema=schema))
                count += len(batch)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return count
