"""Answers questions about checkpoints, each at most once a store."""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch

from progdistill.artifacts.checkpoint import CheckpointManifest
from progdistill.artifacts.records import publish_record, read_record
from progdistill.artifacts.store import Store
from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import SamplerName
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.evaluator import Evaluator
from progdistill.evaluation.evaluators import find_or_publish_evaluator, open_evaluator
from progdistill.evaluation.kept import kept_record
from progdistill.evaluation.measure import draw_shards, load_denoiser, measure
from progdistill.evaluation.measurement import Measurement, Question
from progdistill.evaluation.published_statistics import pinned_statistics
from progdistill.evaluation.reference import Reference, published_reference, reference_of
from progdistill.evaluation.shard import shards_of
from progdistill.evaluation.shard_store import forget_shards
from progdistill.models.config import DenoiserConfig
from progdistill.training.config import Precision
from progdistill.training.guidance import takes_guidance
from progdistill.training.placement import set_float32_products
from progdistill.version import NUMERICS_VERSION

REFERENCE_SPLIT = "train"


class Examiner:
    """Measures checkpoints with one evaluator against one dataset; networks are loaded only when needed."""

    def __init__(
        self, store: Store, settings: EvaluationSettings, info: DatasetInfo, device: str = "cpu"
    ) -> None:
        self._store, self._info, self._device = store, info, device
        self._settings = pinned_statistics(store, settings)
        self.evaluator_manifest = find_or_publish_evaluator(store, settings, info)

    @cached_property
    def evaluator(self) -> Evaluator:
        """The evaluator, ready for use in float32."""
        set_float32_products(Precision.FLOAT32, torch.device(self._device))
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
        """The store's answer to a question, measured and published now if it has none."""
        question = self.question(checkpoint, sampler, steps, gamma)
        known = kept_record(self._store, question.key, Measurement, lambda known: known.files)
        if known is not None:
            return known
        measured = measure(
            self._store,
            question,
            load_denoiser(self._store, checkpoint, self._device),
            self.evaluator,
            self.reference,
            batch_size=self._settings.batch_size,
            device=self._device,
        )
        answer = publish_record(self._store, question.key, measured)
        forget_shards(self._store, question)
        return answer

    def draw(
        self,
        checkpoint: CheckpointManifest,
        sampler: SamplerName,
        steps: int,
        gamma: float | None,
        choose: Callable[[Sequence[range]], Sequence[range]],
    ) -> None:
        """Draw chosen shards of a question, for whoever answers it once all are drawn."""
        question = self.question(checkpoint, sampler, steps, gamma)
        chosen = choose(shards_of(question.samples))
        if not chosen or read_record(self._store, question.key, Measurement) is not None:
            return
        draw_shards(
            self._store,
            question,
            load_denoiser(self._store, checkpoint, self._device),
            self.evaluator,
            chosen,
            keep=True,
            batch_size=self._settings.batch_size,
            device=self._device,
        )

    def question(
        self, checkpoint: CheckpointManifest, sampler: SamplerName, steps: int, gamma: float | None = None
    ) -> Question:
        """Put all that decides the figures into words."""
        settings = self._settings
        return Question(
            checkpoint_id=checkpoint.id,
            sampler=sampler,
            gamma=gamma,
            guidance=settings.guidance if takes_guidance(checkpoint) else None,
            class_counts=_class_counts(self._info, checkpoint),
            clip=settings.clip,
            steps=steps,
            samples=settings.samples,
            seed=settings.seed,
            shown_samples=settings.shown_samples,
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
