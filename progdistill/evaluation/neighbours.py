"""The training images nearest to a few samples, so that a copy shows as one. No torch."""

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from progdistill.artifacts.checkpoint import blob_key
from progdistill.artifacts.digest import FileDigest
from progdistill.artifacts.records import publish_record, read_record
from progdistill.artifacts.store import Store
from progdistill.data.dataset import DatasetInfo
from progdistill.data.reading import iterate_images
from progdistill.evaluation.measurement import Neighbours, SampleStrip
from progdistill.evaluation.pictures import Pixels, decode_strip, encode_strip
from progdistill.progress import Progress

FOLDER = "evaluation_neighbours/"
READ_IMAGES = 1024
SAMPLES = 8
NEAREST = 3


def neighbours_of(store: Store, shown: SampleStrip, info: DatasetInfo) -> Neighbours:
    """Find the neighbours of a strip's first samples once a store; later calls read them back."""
    key = f"{FOLDER}{shown.sha256}/{info.fingerprint}-{SAMPLES}-{NEAREST}.json"
    known = read_record(store, key, Neighbours)
    if known is not None:
        return known
    path = store.download(blob_key(shown.sha256), FileDigest(shown.sha256, shown.size_bytes))
    drawn = decode_strip(path.read_bytes(), shown.images)[:SAMPLES]
    found = nearest_images(drawn, info, "train", NEAREST)
    strip = np.concatenate([np.concatenate((drawn[i : i + 1], found[i])) for i in range(len(drawn))])
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "neighbours.png"
        picture.write_bytes(encode_strip(strip))
        blob = store.upload(picture, blob_key)
    made = Neighbours(
        strip_sha256=blob.sha256, strip_bytes=blob.size_bytes, samples=len(drawn), nearest=found.shape[1]
    )
    return publish_record(store, key, made)


def nearest_images(drawn: Pixels, info: DatasetInfo, split: str, nearest: int) -> Pixels:
    """The `nearest` images of a split to each drawn one by the Euclidean distance of pixels.

    Shape [samples, nearest, height, width, channels], the nearest first. The split is read once, as a stream.
    """
    queries = drawn.reshape(len(drawn), -1).astype(np.float32)
    best = np.full((len(drawn), 0), np.inf, np.float32)
    images = np.empty((len(drawn), 0, *drawn.shape[1:]), np.uint8)
    with Progress("nearest training images", total=info.splits[split], unit="images") as progress:
        for pixels, _ in iterate_images(info, split, batch_size=READ_IMAGES):
            distances = _squared_distances(queries, pixels.reshape(len(pixels), -1).astype(np.float32))
            order = np.argsort(distances, axis=1, kind="stable")[:, :nearest]
            best = np.concatenate((best, np.take_along_axis(distances, order, axis=1)), axis=1)
            images = np.concatenate((images, pixels[order]), axis=1)
            kept = np.argsort(best, axis=1, kind="stable")[:, :nearest]
            best = np.take_along_axis(best, kept, axis=1)
            images = np.stack([images[row, kept[row]] for row in range(len(drawn))])
            progress.advance(len(pixels))
    return images


def _squared_distances(queries: NDArray[np.float32], images: NDArray[np.float32]) -> NDArray[np.float32]:
    squares = (queries**2).sum(axis=1)[:, None] + (images**2).sum(axis=1)[None, :]
    distances: NDArray[np.float32] = squares - 2 * queries @ images.T
    return distances
