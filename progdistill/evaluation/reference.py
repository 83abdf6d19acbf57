"""What the real images look like to an evaluator, computed once a store."""

import tempfile
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file

from progdistill.artifacts.checkpoint import blob_key
from progdistill.artifacts.digest import FileDigest, Sha256
from progdistill.artifacts.records import publish_record, read_record
from progdistill.artifacts.store import Store
from progdistill.data.dataset import DatasetInfo
from progdistill.data.reading import iterate_images
from progdistill.evaluation.evaluator import Evaluator
from progdistill.evaluation.moments import Moments, merge, moments_of, no_moments
from progdistill.progress import Progress

READ_IMAGES = 256
"""Images looked at in one go."""


class ReferenceStatistics(BaseModel):
    """The record of a split's moments; mean and scatter stand in a safetensors blob."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    evaluator_id: Sha256
    dataset_fingerprint: str
    split: str
    images: int
    moments_sha256: Sha256
    moments_bytes: int


def reference_moments(
    store: Store, evaluator: Evaluator, info: DatasetInfo, split: str, device: str
) -> Moments:
    """The moments of a split's features, from the store or computed and published now."""
    key = f"evaluators/{evaluator.manifest.id}/reference/{info.fingerprint}-{split}.json"
    record = read_record(store, key, ReferenceStatistics)
    if record is None:
        record = publish_record(store, key, _compute(store, evaluator, info, split, device))
    path = store.download(
        blob_key(record.moments_sha256), FileDigest(record.moments_sha256, record.moments_bytes)
    )
    tensors = load_file(path)
    return Moments(record.images, tensors["mean"], tensors["scatter"])


def _compute(
    store: Store, evaluator: Evaluator, info: DatasetInfo, split: str, device: str
) -> ReferenceStatistics:
    moments = no_moments(evaluator.manifest.identity.feature_dimensions)
    with Progress(
        f"reference statistics of {info.name}", total=info.splits[split], unit="images"
    ) as progress:
        for pixels, _ in iterate_images(info, split, batch_size=READ_IMAGES):
            images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(device)
            with torch.inference_mode():
                moments = merge(moments, moments_of(evaluator.observe(images).features))
            progress.advance(len(images))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "moments.safetensors"
        save_file({"mean": moments.mean, "scatter": moments.scatter}, path)
        blob = store.upload(path, blob_key)
    return ReferenceStatistics(
        evaluator_id=evaluator.manifest.id,
        dataset_fingerprint=info.fingerprint,
        split=split,
        images=moments.vectors,
        moments_sha256=blob.sha256,
        moments_bytes=blob.size_bytes,
    )
