"""Sample images: contact sheets, grids and the files they are written to."""

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image  # Imported where used: every command imports this module.

Pixels = NDArray[np.uint8]
"""[count, height, width, channels], 1 or 3 channels."""


def encode_contact_sheet(images: Pixels) -> bytes:
    """Encode images as one PNG, one below the other; equal images give equal bytes."""
    count, height, width, channels = images.shape
    return encode_png(images.reshape(count * height, width, channels))


def decode_contact_sheet(png: bytes, count: int) -> Pixels:
    """Cut a contact sheet back into its `count` images; ValueError or OSError where it is none of so many."""
    from PIL import Image

    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        if image.mode not in ("L", "RGB") or image.height % count:
            raise ValueError(f"it is no contact sheet of {count} images")
        pixels = np.atleast_3d(np.asarray(image))
    return pixels.reshape(count, -1, *pixels.shape[1:])


def _to_pil(image: Pixels) -> "Image.Image":
    from PIL import Image

    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def encode_png(picture: Pixels) -> bytes:
    """Encode an image [height, width, channels] as PNG."""
    buffer = io.BytesIO()
    _to_pil(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def enlarge(image: Pixels, scale: int) -> Pixels:
    """Enlarge an image [height, width, channels] by the factor `scale`, bicubically."""
    if scale == 1:
        return image
    from PIL import Image

    height, width, _ = image.shape
    return np.atleast_3d(np.asarray(_to_pil(image).resize((width * scale, height * scale), Image.Resampling.BICUBIC)))


def grid(images: Pixels, columns: int | None = None, *, scale: int = 1, gap: int = 2) -> Pixels:
    """Lay images out in a grid, row by row, on white.

    Args:
        images: uint8 [count, height, width, channels].
        columns: Images per row; None makes the grid as square as possible.
        scale: Factor by which each image is enlarged.
        gap: Pixels between images.

    Returns:
        One image, uint8 [height, width, channels].
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


def titled_rows(images: Pixels, titles: Sequence[str], *, scale: int = 1, most_columns: int = 16) -> Pixels:
    """Lay images out with a row of its own for each title, below the title, in the order in which titles appear.

    Args:
        images: uint8 [count, height, width, channels].
        titles: One for each image; one that is wider than its row is cut off.
        scale: Factor by which each image is enlarged.
        most_columns: Further images of a title go to further rows.

    Returns:
        One image, uint8 [height, width, channels].
    """
    rows = {title: [place for place, own in enumerate(titles) if own == title] for title in dict.fromkeys(titles)}
    columns = min(most_columns, max(map(len, rows.values())))
    parts = []
    for title, places in rows.items():
        blank = np.full((-len(places) % columns, *images.shape[1:]), 255, np.uint8)
        part = grid(np.concatenate([images[places], blank]), columns, scale=scale)
        parts += [_written(title, part.shape[1], part.shape[2]), part]
    return np.concatenate(parts)


def _written(text: str, width: int, channels: int) -> Pixels:
    """A line of text in black on white."""
    from PIL import Image, ImageDraw, ImageFont

    line = Image.new("RGB", (width, 18), "white")
    ImageDraw.Draw(line).text((3, 2), text, fill="black", font=ImageFont.load_default(12))
    return np.asarray(line)[:, :, :channels]


def readable_scale(image_size: int, wanted_pixels: int = 48) -> int:
    """Return the integer factor that makes an image about `wanted_pixels` high."""
    return max(1, round(wanted_pixels / image_size))


def write_parquet(path: Path, batches: Iterable[Pixels], labels: Sequence[int] | None) -> int:
    """Write images to a Parquet file, one row per image, as batches arrive; return the number of images.

    Args:
        path: The file to write, with columns `index`, `image` {bytes (PNG), path} and `label`.
        batches: uint8 [count, height, width, channels] each.
        labels: Class of every image, in order; None leaves the column out.
    """
    import pyarrow as pa
    from pyarrow import parquet

    file = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [("index", pa.int64()), ("image", file)]
    schema = pa.schema(fields if labels is None else [*fields, ("label", pa.int64())])
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for batch in batches:
            numbered = list(enumerate(batch, start=count))
            columns: dict[str, list[Any]] = {
                "index": [i for i, _ in numbered],
                "image": [{"bytes": encode_png(image), "path": f"{i:06d}.png"} for i, image in numbered],
            }
            if labels is not None:
                columns["label"] = list(labels[count : count + len(batch)])
            writer.write_table(pa.table(columns, schema=schema))
            count += len(batch)
    return count
