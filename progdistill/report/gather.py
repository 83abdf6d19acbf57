"""Turns records of the store into the entries of a report: no torch."""

from collections.abc import Sequence

from progdistill.artifacts.checkpoint import CheckpointManifest, blob_key
from progdistill.artifacts.store import Store
from progdistill.evaluation.measurement import EvaluationRecord, Measurement, Neighbours
from progdistill.report.input import LossPoint, NeighbourImages, SampleImages, StageEntry

SHOWN_FIGURES = {"updates", "images", "seconds", "images_per_second"}
"""Of what a checkpoint's training took."""


def stage_entry(
    store: Store,
    manifest: CheckpointManifest,
    record: EvaluationRecord,
    loss_curve: Sequence[LossPoint] = (),
) -> StageEntry:
    """What the report says of one checkpoint, with its sample images fetched from the store."""
    figures, own = manifest.circumstances.figures, record.distilled
    ancestral = record.baseline_ancestral
    return StageEntry(
        num_steps=record.num_steps,
        id=manifest.id,
        parent=manifest.identity.parent,
        kind=manifest.identity.kind,
        distance=None if own is None else own.distance,
        distance_name=None if own is None else own.distance_name,
        inception_score=None if own is None else own.inception_score,
        kernel_distance=None if own is None else own.kernel_distance,
        precision=None if own is None else own.precision,
        recall=None if own is None else own.recall,
        evaluated_samples=None if own is None else own.question.samples,
        guidance=None if own is None else own.question.guidance,
        baseline_ddim=_distance(record.baseline_ddim),
        baseline_ancestral=_distance(record.baseline_ancestral),
        baseline_ancestral_gamma=None if ancestral is None else ancestral.question.gamma,
        distilled_ancestral=_distance(record.distilled_ancestral),
        not_evaluated_reason=record.not_evaluated_reason,
        sampling_seconds=sum(m.sampling_seconds for m in record.measurements),
        evaluation_seconds=sum(m.evaluation_seconds for m in record.measurements),
        device=manifest.circumstances.device,
        creator_run=manifest.circumstances.creator_run,
        samples=_samples(store, own),
        baseline_ddim_samples=_samples(store, record.baseline_ddim),
        neighbours=_neighbours(store, record.neighbours),
        loss_curve=tuple(loss_curve),
        **({} if figures is None else figures.model_dump(include=SHOWN_FIGURES)),
    )


def _distance(measurement: Measurement | None) -> float | None:
    return None if measurement is None else measurement.distance


def _samples(store: Store, measurement: Measurement | None) -> SampleImages | None:
    if measurement is None or measurement.shown is None:
        return None
    shown = measurement.shown
    path = store.download(blob_key(shown.sha256), shown.file)
    return SampleImages(png=path.read_bytes(), images=shown.images, labels=shown.labels)


def _neighbours(store: Store, found: Neighbours | None) -> NeighbourImages | None:
    if found is None:
        return None
    path = store.download(blob_key(found.strip_sha256), found.file)
    return NeighbourImages(
        png=path.read_bytes(), samples=found.samples, nearest=found.nearest, mirrored=found.mirrored
    )
