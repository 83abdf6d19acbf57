"""Measures checkpoints: draws samples, extracts features, computes metrics."""

import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cached_property, reduce
from pathlib import Path

import numpy as np
import torch

from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import SamplerName
from progdistill.evaluation.cached import load_valid_record
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.reference import Reference, pinned_statistics, published_reference, reference_of
from progdistill.evaluation.sampling import labels_of
from progdistill.evaluation.shards import (
    ShardResult,
    delete_shards,
    kept_shard,
    measure_shard,
    save_shard,
    shards_of,
)
from progdistill.evaluation.statistics import compare, merge_statistics
from progdistill.features.base import FeatureExtractor
from progdistill.features.registry import find_or_publish_evaluator, open_evaluator
from progdistill.images import Pixels, encode_contact_sheet
from progdistill.models.config import DenoiserConfig
from progdistill.models.denoiser import Denoiser, load_denoiser
from progdistill.progress import Progress
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.registry.evaluations import ContactSheet, Measurement, MeasurementSpec
from progdistill.store.base import Store
from progdistill.store.documents import publish_record, read_record
from progdistill.store.layout import blob_key
from progdistill.training.config import Precision
from progdistill.training.devices import device_name
from progdistill.training.execution import set_float32_products
from progdistill.training.guidance import takes_guidance
from progdistill.version import NUMERICS_VERSION


def measure(
    store: Store,
    spec: MeasurementSpec,
    denoiser: Denoiser,
    evaluator: FeatureExtractor,
    reference: Reference,
    *,
    batch_size: int,
    device: str,
) -> Measurement:
    """Answer a spec anew, going on from shards that an earlier attempt finished or that ranks shared out.

    Progress goes to standard error. The answer is returned, not yet published.
    """
    shards = shards_of(spec.samples)
    results = draw_shards(
        store,
        spec,
        denoiser,
        evaluator,
        shards,
        keep=len(shards) > 1,
        batch_size=batch_size,
        device=device,
    )
    began = time.monotonic()
    statistics = reduce(merge_statistics, (result.statistics for result in results))
    figures = compare(statistics, reference)
    comparing_seconds = time.monotonic() - began
    shown = np.concatenate([result.shown for result in results])
    return Measurement(
        spec=spec,
        distance_name=evaluator.manifest.identity.distance_name,
        sampling_seconds=sum(result.sampling_seconds for result in results),
        evaluation_seconds=sum(result.evaluation_seconds for result in results) + comparing_seconds,
        device=device_name(torch.device(device)),
        created_at=datetime.now(UTC),
        shown=_publish_strip(store, shown, spec, denoiser.config.network.num_classes),
        **figures._asdict(),
    )


def draw_shards(
    store: Store,
    spec: MeasurementSpec,
    denoiser: Denoiser,
    evaluator: FeatureExtractor,
    shards: Sequence[range],
    *,
    keep: bool,
    batch_size: int,
    device: str,
) -> list[ShardResult]:
    """Draw shards unless the store has them already, and return them in order.

    With `keep` each goes to the store as soon as it is finished.
    """
    results = []
    label = f"{spec.sampler} × {spec.sampling_steps}"
    with Progress(label, total=sum(map(len, shards)), unit="images") as progress:
        for indices in shards:
            result = kept_shard(store, spec, indices)
            if result is not None:
                progress.advance(len(indices))
            else:
                result = measure_shard(
                    spec,
                    indices,
                    denoiser,
                    evaluator,
                    batch_size=batch_size,
                    device=device,
                    progress=progress,
                )
                if keep:
                    save_shard(store, spec, indices, result)
            results.append(result)
    return results


def _publish_strip(
    store: Store, shown: Pixels, spec: MeasurementSpec, num_classes: int
) -> ContactSheet | None:
    if len(shown) == 0:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.png"
        path.write_bytes(encode_contact_sheet(shown))
        blob = store.upload(path, blob_key)
    labels = labels_of(range(len(shown)), num_classes, class_counts=spec.class_counts)
    return ContactSheet(
        file=blob,
        images=len(shown),
        labels=None if labels is None else tuple(labels.tolist()),
    )


REFERENCE_SPLIT = "train"


class MeasurementRunner:
    """Measures checkpoints with one evaluator against one dataset; networks are loaded only when needed."""

    def __init__(
        self,
        store: Store,
        settings: EvaluationSettings,
        info: DatasetInfo,
        device: str = "cpu",
        *,
        trial: bool = False,
    ) -> None:
        set_float32_products(Precision.FLOAT32, torch.device(device))
        self._store, self._info, self._device, self._trial = store, info, device, trial
        self._settings = pinned_statistics(store, settings)
        self.evaluator_manifest = find_or_publish_evaluator(store, settings, info)

    @cached_property
    def evaluator(self) -> FeatureExtractor:
        """The evaluator, ready for use in float32."""
        return open_evaluator(self._store, self.evaluator_manifest, self._device)

    @cached_property
    def reference(self) -> Reference:
        """What the real images look like to the evaluator, or the statistics that settings name."""
        if self._settings.reference_statistics is not None:
            return published_reference(self._store, self._settings, self.evaluator, self._info, self._device)
        return reference_of(self._store, self.evaluator, self._info, REFERENCE_SPLIT, self._device)

    def load(self) -> Reference:
        """Load evaluator and reference statistics, publishing what the store lacks."""
        return self.reference

    def answer(
        self, checkpoint: CheckpointManifest, sampler: SamplerName, steps: int, gamma: float | None = None
    ) -> Measurement:
        """The store's answer to a spec, measured and published now if it has none."""
        spec = self.spec(checkpoint, sampler, steps, gamma)
        known = load_valid_record(self._store, spec.key, Measurement, lambda known: known.files)
        if known is not None:
            return known
        measured = measure(
            self._store,
            spec,
            load_denoiser(self._store, checkpoint, self._device),
            self.evaluator,
            self.reference,
            batch_size=self._settings.batch_size,
            device=self._device,
        )
        answer = publish_record(self._store, spec.key, measured)
        delete_shards(self._store, spec)
        return answer

    def draw(
        self,
        checkpoint: CheckpointManifest,
        sampler: SamplerName,
        steps: int,
        gamma: float | None,
        choose: Callable[[Sequence[range]], Sequence[range]],
    ) -> None:
        """Draw chosen shards of a spec, for whoever answers it once all are drawn."""
        spec = self.spec(checkpoint, sampler, steps, gamma)
        chosen = choose(shards_of(spec.samples))
        if not chosen or read_record(self._store, spec.key, Measurement) is not None:
            return
        draw_shards(
            self._store,
            spec,
            load_denoiser(self._store, checkpoint, self._device),
            self.evaluator,
            chosen,
            keep=True,
            batch_size=self._settings.batch_size,
            device=self._device,
        )

    def spec(
        self, checkpoint: CheckpointManifest, sampler: SamplerName, steps: int, gamma: float | None = None
    ) -> MeasurementSpec:
        """Put all that decides the figures into words."""
        settings = self._settings
        return MeasurementSpec(
            checkpoint_id=checkpoint.id,
            sampler=sampler,
            sampling_steps=steps,
            gamma=gamma,
            guidance_scale=settings.guidance if takes_guidance(checkpoint) else None,
            class_counts=_class_counts(self._info, checkpoint),
            clip=settings.clip,
            samples=settings.samples,
            seed=settings.seed,
            shown_samples=settings.shown_samples,
            trial=self._trial,
            evaluator_id=self.evaluator_manifest.id,
            reference_fingerprint=self._reference_fingerprint,
            reference_split=REFERENCE_SPLIT,
            numerics_version=NUMERICS_VERSION,
        )

    @cached_property
    def _reference_fingerprint(self) -> str:
        given = self._settings.reference_statistics_sha256
        return self._info.fingerprint if given is None else f"file:{given}"


def _class_counts(info: DatasetInfo, checkpoint: CheckpointManifest) -> tuple[int, ...] | None:
    """The real images of each class where samples are to follow them; None where classes are alike.

    Samples of a rare class as many as of a common one would be a distance of their own, whatever the model.
    """
    counts = info.class_counts
    classes = DenoiserConfig.model_validate(checkpoint.identity.architecture).network.num_classes
    return counts if len(counts) == classes and len(set(counts)) > 1 else None
