"""Runs measurements: samples a checkpoint, extracts features, computes the metrics."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cached_property, reduce

import numpy as np
import torch

from progdistill.data.dataset import DatasetInfo
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.latents import Surroundings, surroundings_in_data
from progdistill.evaluation.plan import REFERENCE_SPLIT, PlannedMeasurement, plan_measurements
from progdistill.evaluation.published_statistics import pinned_statistics
from progdistill.evaluation.reference import Reference, published_reference, reference_of
from progdistill.evaluation.sampling import labels_of
from progdistill.evaluation.shards import (
    ShardResult,
    delete_shards,
    load_shard,
    measure_shard,
    save_shard,
    shards_of,
    splits_of,
)
from progdistill.evaluation.statistics import as_published, compare, merge_statistics
from progdistill.features.base import FeatureExtractor
from progdistill.features.manifest import EvaluatorManifest
from progdistill.features.registry import find_or_publish_evaluator, open_evaluator
from progdistill.images import Pixels, encode_contact_sheet
from progdistill.models.config import DenoiserConfig
from progdistill.models.load import load_denoiser
from progdistill.progress import Progress
from progdistill.registry.checkpoint import CheckpointManifest, load_manifest
from progdistill.registry.evaluations import ContactSheet, Measurement, MeasurementSpec
from progdistill.store.base import Store
from progdistill.store.documents import load_valid_record, publish_record, read_record, upload_bytes
from progdistill.training.config import Precision
from progdistill.training.devices import device_name
from progdistill.training.execution import set_float32_products

MOST_PROMPTS = 1000
"""Kept in memory, 0.6 GB for SDXL; with more samples they are drawn again, from other noise."""


class MeasurementRunner:
    """Measures checkpoints in float32 with one evaluator against one dataset.

    Networks and reference statistics are loaded only when needed.
    """

    def __init__(
        self,
        store: Store,
        settings: EvaluationSettings,
        info: DatasetInfo,
        device: str = "cpu",
        *,
        compiled: bool = False,
    ) -> None:
        """`compiled` says whether the sampled networks are."""
        set_float32_products(Precision.FLOAT32, torch.device(device))
        self._store, self._info, self._device, self._compiled = store, info, device, compiled
        self._settings = pinned_statistics(store, settings)
        self._around: Surroundings | None = None
        self.evaluator_manifest = find_or_publish_evaluator(store, settings, info)

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """The evaluator's network, ready for use."""
        return open_evaluator(self._store, self.evaluator_manifest, self._device)

    @cached_property
    def reference(self) -> Reference:
        """The statistics of the real images, or those that the settings name."""
        if self._settings.reference_statistics is not None:
            return published_reference(self._store, self._settings, self.extractor, self._info, self._device)
        return reference_of(self._store, self.extractor, self._info, REFERENCE_SPLIT, self._device)

    def prepare(self) -> EvaluatorManifest:
        """Publish the evaluator and the reference statistics, unless the store has them.

        Done once before evaluations that run side by side, each of which would do it otherwise.
        """
        _ = self.reference
        return self.evaluator_manifest

    def plan(
        self, manifest: CheckpointManifest, baseline: CheckpointManifest | None, sampling_steps: int
    ) -> list[PlannedMeasurement]:
        """See `plan_measurements`."""
        return plan_measurements(
            manifest, baseline, sampling_steps, self._settings, self._info, self.evaluator_manifest.id
        )

    def run(self, spec: MeasurementSpec) -> Measurement:
        """Return the store's measurement for a spec; measure and publish it if there is none."""
        known = load_valid_record(self._store, spec.key, Measurement, lambda known: known.files)
        if known is not None:
            return known
        measured = publish_record(self._store, spec.key, self._measure(spec))
        delete_shards(self._store, spec)
        return measured

    def sample(self, spec: MeasurementSpec, assigned: Callable[[Sequence[range]], Sequence[range]]) -> None:
        """Draw the assigned shards of a measurement and keep them in the store for `run`."""
        shards = assigned(shards_of(spec))
        if shards and read_record(self._store, spec.key, Measurement) is None:
            self._draw(spec, shards, keep=True)

    def _measure(self, spec: MeasurementSpec) -> Measurement:
        """Draw what other ranks or an earlier attempt did not, and compare all with the real images."""
        reference, shards = self.reference, shards_of(spec)
        results, num_classes = self._draw(spec, shards, keep=len(shards) > 1)
        began = time.monotonic()
        statistics = reduce(merge_statistics, (result.statistics for result in results))
        figures = compare(statistics, reference)
        if spec.protocol == "published":
            parts = [
                [result.statistics for result, shard in zip(results, shards, strict=True) if shard[0] in split]
                for split in splits_of(spec)
            ]
            figures = as_published(figures, statistics, reference, parts)
        comparing_seconds = time.monotonic() - began
        return Measurement(
            spec=spec,
            distance_name=self.evaluator_manifest.identity.distance_name,
            sampling_seconds=sum(result.sampling_seconds for result in results),
            evaluation_seconds=sum(result.evaluation_seconds for result in results) + comparing_seconds,
            device=device_name(torch.device(self._device)),
            created_at=datetime.now(UTC),
            shown=self._publish_shown(np.concatenate([result.shown for result in results]), spec, num_classes),
            **figures._asdict(),
        )

    def _draw(self, spec: MeasurementSpec, shards: Sequence[range], *, keep: bool) -> tuple[list[ShardResult], int]:
        """Draw shards unless the store has them, in order; also return the model's number of classes."""
        manifest = load_manifest(self._store, spec.checkpoint_id)
        denoiser = load_denoiser(self._store, manifest, self._device, compiled=self._compiled)
        results, batch_size = [], self._settings.batch_size
        around = self._surroundings(denoiser.config)
        label = f"{spec.sampler} × {spec.sampling_steps}"
        with Progress(label, total=sum(map(len, shards)), unit="images") as progress:
            for indices in shards:
                result = load_shard(self._store, spec, indices)
                if result is not None:
                    progress.advance(len(indices))
                else:
                    result = measure_shard(
                        spec, indices, denoiser, self.extractor, batch_size, self._device, progress, around
                    )
                    if keep:
                        save_shard(self._store, spec, indices, result)
                results.append(result)
        return results, denoiser.config.network.num_classes

    def _surroundings(self, model: DenoiserConfig) -> Surroundings | None:
        """Of a latent model; loaded once, because all models of an evaluation have one pipeline."""
        if self._around is None and model.pipeline is not None:
            self._around = surroundings_in_data(
                self._store, model, self._info, min(self._settings.samples, MOST_PROMPTS), self._device
            )
        return self._around

    def _publish_shown(self, shown: Pixels, spec: MeasurementSpec, num_classes: int) -> ContactSheet | None:
        if len(shown) == 0:
            return None
        labels = labels_of(range(len(shown)), num_classes, class_counts=spec.class_counts)
        texts = () if self._around is None else self._around.texts
        return ContactSheet(
            file=upload_bytes(self._store, encode_contact_sheet(shown)),
            images=len(shown),
            labels=None if labels is None else tuple(labels.tolist()),
            prompts=tuple(texts[index % len(texts)] for index in range(len(shown))) if texts else None,
        )
