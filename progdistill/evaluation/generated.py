"""Images of a model, to compare others with: generated in shards that ranks share and that the store keeps for a while.

What one comparison generated of the undistilled model serves those of all its students.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from progdistill.diffusion.names import SamplerName
from progdistill.errors import LostInvariantError
from progdistill.evaluation.latents import Surroundings
from progdistill.evaluation.sampling import generate
from progdistill.images import decode_contact_sheet, encode_contact_sheet
from progdistill.models.denoiser import Denoiser
from progdistill.models_base import Frozen, content_id
from progdistill.progress import Progress
from progdistill.store.base import Store
from progdistill.store.digest import FileDigest, Sha256
from progdistill.store.documents import Record, publish_record, read_record, upload_bytes
from progdistill.store.failpoints import failpoint
from progdistill.store.layout import blob_key, generated_key, shards_prefix

logger = logging.getLogger(__name__)

SHARD_IMAGES = 16
"""Images per shard. Fixed, so that they do not depend on the number of ranks."""

Assign = Callable[[Sequence[range]], Sequence[range]]
"""A rank's part of the shards."""


class GenerationSpec(Frozen):
    """Everything that decides the images of a model, by DDIM; each is a function of its index, too."""

    checkpoint_id: Sha256
    sampling_steps: int
    seed: int
    guidance_scale: float | None
    clip: bool
    prompts: str | None
    """The dataset's fingerprint and the number of its prompts that images take in turn."""
    numerics_version: int

    @property
    def id(self) -> str:
        """SHA-256 of the canonical JSON of this spec."""
        return content_id(self.model_dump(mode="json"))


class GeneratedImages(Record):
    """A finished shard: a PNG of its images, one below the other."""

    schema_version: Literal[1] = 1
    images: int
    sheet: FileDigest

    def references(self) -> Iterable[str]:
        """See Record.references."""
        return (blob_key(self.sheet.sha256),)


class ImageGenerator(NamedTuple):
    """How models are loaded, what stands around them, and where they run."""

    store: Store
    load: Callable[[str], Denoiser]
    """By the id of a checkpoint; called only where images are missing."""
    around: Surroundings | None
    batch_size: int
    device: str

    def images(self, spec: GenerationSpec, samples: int, assigned: Assign = tuple) -> Tensor:
        """Generate the assigned shards of the first `samples` images, unless the store has them.

        Returns:
            Their images, uint8 [count, channels, height, width], on the CPU.
        """
        shards = assigned([range(i, min(i + SHARD_IMAGES, samples)) for i in range(0, samples, SHARD_IMAGES)])
        denoiser: Denoiser | None = None
        found = []
        label = f"ddim × {spec.sampling_steps}, to compare"
        with Progress(label, total=sum(map(len, shards)), unit="images") as progress:
            for indices in shards:
                images = _load(self.store, spec, indices)
                if images is None:
                    denoiser = denoiser or self.load(spec.checkpoint_id)
                    images = self._generated(denoiser, spec, indices)
                    _save(self.store, spec, indices, images)
                    failpoint("evaluation.generated")
                progress.advance(len(indices))
                found.append(images)
        return torch.cat(found) if found else torch.zeros(0)

    def _generated(self, denoiser: Denoiser, spec: GenerationSpec, indices: range) -> Tensor:
        batches = generate(
            denoiser,
            SamplerName.DDIM,
            spec.sampling_steps,
            indices=indices,
            seed=spec.seed,
            batch_size=self.batch_size,
            guidance_scale=spec.guidance_scale,
            clip=spec.clip,
            surroundings=self.around,
            device=self.device,
            name=f"checkpoint {spec.checkpoint_id[:12]}",
        )
        return torch.cat([batch.cpu() for batch in batches])


def forget(store: Store, spec: GenerationSpec) -> None:
    """Delete the shards of images that no other comparison needs; garbage collection removes their blobs."""
    for item in list(store.list(shards_prefix(spec.id))):
        store.delete(item.key)


def _save(store: Store, spec: GenerationSpec, indices: range, images: Tensor) -> None:
    sheet = upload_bytes(store, encode_contact_sheet(images.permute(0, 2, 3, 1).numpy()))
    publish_record(store, generated_key(spec.id, indices), GeneratedImages(images=len(images), sheet=sheet))


def _load(store: Store, spec: GenerationSpec, indices: range) -> Tensor | None:
    """A finished shard; None if there is none. A damaged one is deleted, to be generated again."""
    key = generated_key(spec.id, indices)
    try:
        record = read_record(store, key, GeneratedImages)
        if record is None:
            return None
        path = store.download(blob_key(record.sheet.sha256), record.sheet)
        images = decode_contact_sheet(path.read_bytes(), record.images)
    except (LostInvariantError, ValueError) as error:
        logger.warning("generating images %d to %d again: %s", indices.start, indices.stop, error)
        store.delete(key)
        return None
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2).contiguous()
