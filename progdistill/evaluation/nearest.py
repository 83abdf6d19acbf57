"""The training images nearest to a few samples, which show whether a sample is a copy."""

import numpy as np
from numpy.typing import NDArray

from progdistill.data.dataset import DatasetInfo
from progdistill.data.reading import iterate_images
from progdistill.evaluation.measurement import Neighbors
from progdistill.images import Pixels, decode_contact_sheet, encode_contact_sheet
from progdistill.progress import Progress
from progdistill.registry.evaluations import ContactSheet
from progdistill.store.base import Store
from progdistill.store.documents import load_valid_record, publish_record, upload_bytes
from progdistill.store.layout import blob_key, neighbors_key

READ_IMAGES = 1024
SAMPLES = 8
NEAREST = 3


def neighbors_of(store: Store, shown: ContactSheet, info: DatasetInfo) -> Neighbors:
    """Find the neighbors of a contact sheet's first samples; later calls read them from the store."""
    orientations = "-mirrored" if info.horizontal_flip_safe else ""
    key = neighbors_key(shown.file.sha256, f"{info.fingerprint}-{SAMPLES}-{NEAREST}{orientations}")
    known = load_valid_record(store, key, Neighbors, lambda known: [known.file])
    if known is not None:
        return known
    path = store.download(blob_key(shown.file.sha256), shown.file)
    drawn = decode_contact_sheet(path.read_bytes(), shown.images)[:SAMPLES]
    found = nearest_images(drawn, info, "train", NEAREST)
    sheet = np.concatenate([np.concatenate((drawn[i : i + 1], found[i])) for i in range(len(drawn))])
    record = Neighbors(
        file=upload_bytes(store, encode_contact_sheet(sheet)),
        samples=len(drawn),
        nearest=found.shape[1],
        mirrored=info.horizontal_flip_safe,
    )
    return publish_record(store, key, record)


def nearest_images(drawn: Pixels, info: DatasetInfo, split: str, nearest: int) -> Pixels:
    """Find the `nearest` images of a split to each sample by the Euclidean distance of pixels.

    If training images may be mirrored (`info.horizontal_flip_safe`), each counts, and is returned, in the
    orientation that is nearer. The split is read once, as a stream.

    Args:
        drawn: The samples, uint8 [samples, height, width, channels].

    Returns:
        uint8 [samples, nearest, height, width, channels], the nearest first.
    """
    # A mirrored image is as far from a sample as the image from the mirrored sample, and samples are few.
    orientations = [drawn, drawn[:, :, ::-1]] if info.horizontal_flip_safe else [drawn]
    queries = _flat(np.concatenate(orientations))
    best = np.full((len(drawn), 0), np.inf, np.float32)
    images = np.empty((len(drawn), 0, *drawn.shape[1:]), np.uint8)
    with Progress("nearest training images", total=info.splits[split], unit="images") as progress:
        for pixels, _ in iterate_images(info, split, batch_size=READ_IMAGES):
            each = _squared_distances(queries, _flat(pixels)).reshape(len(orientations), len(drawn), -1)
            distances, mirrored = each.min(axis=0), each.argmin(axis=0).astype(np.bool_)
            order = np.argsort(distances, axis=1, kind="stable")[:, :nearest]
            found = pixels[order]
            turned = np.take_along_axis(mirrored, order, axis=1)
            found[turned] = found[turned][:, :, ::-1]
            best = np.concatenate((best, np.take_along_axis(distances, order, axis=1)), axis=1)
            images = np.concatenate((images, found), axis=1)
            kept = np.argsort(best, axis=1, kind="stable")[:, :nearest]
            best = np.take_along_axis(best, kept, axis=1)
            images = np.stack([images[row, kept[row]] for row in range(len(drawn))])
            progress.advance(len(pixels))
    return images


def _flat(images: Pixels) -> NDArray[np.float32]:
    return images.reshape(len(images), -1).astype(np.float32)


def _squared_distances(queries: NDArray[np.float32], images: NDArray[np.float32]) -> NDArray[np.float32]:
    squares = (queries**2).sum(axis=1)[:, None] + (images**2).sum(axis=1)[None, :]
    return np.asarray(squares - 2 * queries @ images.T, np.float32)
