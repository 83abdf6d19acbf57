"""The report input of a run, with made-up distances and real digits as samples."""

from datetime import UTC, datetime

import numpy as np
from sklearn.datasets import load_digits

from progdistill.images import encode_contact_sheet
from progdistill.report.input import LossPoint, NeighborImages, ReportInput, SampleImages, StageEntry, Timings

STEPS = (64, 32, 16, 8, 4, 2, 1)
DISTILLED = (7.0, 7.1, 7.3, 7.6, 8.1, 9.0, 10.5)
DDIM = (7.0, 7.9, 9.5, 13.3, 25.5, 66.0, 286.0)
ANCESTRAL = (6.4, 8.0, 12.0, 24.0, 60.0, 150.0, 286.0)


def example_run(run_id: str = "1700000000", **changes: object) -> ReportInput:
    """A whole digits run; `changes` replace fields of the input."""
    run = ReportInput(
        run_id=run_id,
        created_at=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        dataset="digits",
        dataset_fingerprint="f" * 64,
        evaluator="digits_classifier",
        evaluator_id="e" * 64,
        seed=0,
        code_version="0.1.0",
        store="/somewhere/store",
        configuration={
            "seed": 0,
            "ladder": "64:1",
            "base": {"updates": 1000},
            "evaluation": {"tuned_gammas": 0, "ancestral_gamma": 0.3, "stochastic_students": False},
        },
        checkpoints=tuple(example_stage(place) for place in range(len(STEPS))),
        timings=Timings(
            total_seconds=212,
            training_seconds=160,
            sampling_seconds=40,
            evaluation_seconds=6,
            overhead_seconds_per_stage=1.6,
        ),
        lineage="00aaaa base\n└─ 01aaaa 32 steps",
    )
    return run.model_copy(update=changes)


def example_stage(place: int) -> StageEntry:
    """The checkpoint at the given place of the ladder."""
    return StageEntry(
        sampling_steps=STEPS[place],
        id=f"{place:02d}" + "a" * 62,
        parent=None if place == 0 else f"{place - 1:02d}" + "a" * 62,
        kind="base" if place == 0 else "student",
        distance=DISTILLED[place],
        distance_name="frechet_digits_classifier",
        inception_score=9.1,
        baseline_ddim=DDIM[place],
        baseline_ancestral=ANCESTRAL[place],
        evaluated_samples=1000,
        updates=200,
        images=12800,
        seconds=20.0,
        images_per_second=640.0,
        model_flops_utilization=0.125,
        sampling_seconds=3.0,
        evaluation_seconds=0.2,
        device="cpu",
        created_by="DistillFlow/1700000000",
        samples=_digits(noise=5 + 3 * place),
        baseline_ddim_samples=_digits(noise=5 + 15 * place),
        neighbors=_neighbors() if STEPS[place] == 1 else None,
        loss_curve=tuple(LossPoint(update=u, loss=float(np.exp(-u / 80) + 0.1)) for u in range(1, 200, 5)),
    )


def _neighbors() -> NeighborImages:
    images = load_digits().images[:32].reshape(32, 8, 8, 1) * 255 / 16
    return NeighborImages(png=encode_contact_sheet(images.astype(np.uint8)), samples=8, nearest=3)


def _digits(noise: float) -> SampleImages:
    images, labels = load_digits(return_X_y=True)
    first = [int(np.flatnonzero(labels == digit)[row]) for row in range(2) for digit in range(10)]
    pixels = images[first].reshape(20, 8, 8, 1) * 255 / 16
    noisy = pixels + np.random.default_rng(0).normal(0, noise, pixels.shape)
    png = encode_contact_sheet(np.clip(noisy, 0, 255).astype(np.uint8))
    return SampleImages(png=png, images=20, labels=(*range(10), *range(10)))
