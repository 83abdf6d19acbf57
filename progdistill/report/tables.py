"""The headline, the tables of stages, and what the report omits."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from progdistill.progress import format_duration
from progdistill.report.input import (
    ReportInput,
    StageEntry,
    counts_text,
    distance_label,
    distance_name_of,
    number,
    steps_text,
)


class TextTable(NamedTuple):
    """A header, rows of equally many cells, and the indices of the left-aligned columns."""

    header: tuple[str, ...]
    rows: list[list[str]]
    text_columns: frozenset[int]


def headline(run: ReportInput) -> str:
    """Return the result of the run in one or two sentences."""
    measured = [stage for stage in run.checkpoints if stage.distance is not None]
    students = [stage for stage in measured if stage.kind == "student"]
    if not students:
        return _teacher_headline(run) or "No distilled model was evaluated in this run."
    teacher, student = measured[0], students[-1]
    compared = []
    if student.baseline_ddim:
        compared.append(f"undistilled model with DDIM: {number(student.baseline_ddim)}")
    if teacher.distance and teacher is not student:
        role = "student" if teacher.kind == "student" else "teacher"
        compared.append(f"{role} with {steps_text(teacher.sampling_steps)}: {number(teacher.distance)}")
    aside = f" ({'; '.join(compared)})" if compared else ""
    return (
        f"With {steps_text(student.sampling_steps)}, the distilled model reaches a distance of"
        f" {number(student.distance)}{aside}. Distances are {distance_label(distance_name_of(run))} of"
        f" {counts_text(run)}; lower is better."
    )


def _teacher_headline(run: ReportInput) -> str | None:
    """The result of a run without real images."""
    students = [stage for stage in run.checkpoints if stage.kind == "student" and stage.to_teacher is not None]
    if not students:
        return None
    last = students[-1]
    steps = steps_text(last.sampling_steps)
    itself = number(last.teacher_itself)
    return (
        f"With {steps}, images of the distilled model differ by {number(last.to_teacher)} (the undistilled model at"
        f" {steps}: {itself}) from the undistilled"
        f" model's at {steps_text(last.teacher_steps or 0)}, from the same noise: root mean square of pixels, 0 to 1."
    )


def facts(run: ReportInput) -> list[tuple[str, str]]:
    """Return a few numbers for the top of the page, each with its meaning."""
    return [
        (
            f"{max(ratio, 1 / ratio):.3g} ×",
            f"{'closer' if ratio >= 1 else 'farther'} than undistilled DDIM at {steps_text(stage.sampling_steps)}",
        )
        for stage in run.checkpoints
        if stage.sampling_steps in (1, 2, 4) and stage.kind != "base"
        if stage.distance and stage.baseline_ddim
        for ratio in [stage.baseline_ddim / stage.distance]
    ][-3:]


def omissions(run: ReportInput) -> list[str]:
    """Return a sentence for each thing that was not measured in this run, with its reason."""
    found = _unmeasured(run)
    measured = [stage for stage in run.checkpoints if stage.distance is not None]
    if not measured:
        return found
    if run.evaluator != "inception":
        found.append(
            "FID and KID: they are defined on Inception features; these distances use those of the"
            f" {run.evaluator.replace('_', ' ')} (evaluation.evaluator = {run.evaluator})"
        )
    if not any(stage.baseline_ddim for stage in measured):
        found.append("the undistilled model: the store does not hold the one these checkpoints descend from")
    if run.evaluation_setting("tuned_gammas") == 0:
        found.append(
            "ancestral sampling at its best: the variance was not tuned per number of steps"
            f" (evaluation.tuned_gammas = 0); γ is {run.evaluation_setting('ancestral_gamma')} throughout"
        )
    if run.evaluation_setting("stochastic_students") is False:
        found.append("stochastic sampling of the distilled models: off (evaluation.stochastic_students = false)")
    if all(stage.kernel_distance is None for stage in measured):
        found.append(
            "kernel distance, precision and recall: they need the features of each real image, but the given"
            " reference statistics hold only mean and covariance"
        )
    return found


def _unmeasured(run: ReportInput) -> list[str]:
    """Checkpoints that were not measured; those with too many steps share one sentence."""
    limit = run.evaluation_setting("max_sampling_steps")
    slow, others = [], []
    for stage in run.checkpoints:
        if stage.not_evaluated_reason and isinstance(limit, int) and stage.sampling_steps > limit:
            slow.append(f"{stage.sampling_steps:,}")
        elif stage.not_evaluated_reason:
            others.append(f"{steps_text(stage.sampling_steps)}: {stage.not_evaluated_reason}")
    if not slow:
        return others
    return [f"{', '.join(slow)} steps: more than evaluation.max_sampling_steps = {limit}", *others]


def quality_table(stages: Sequence[StageEntry]) -> TextTable:
    """Return one row per checkpoint: how close its samples are to the real images."""
    columns = {
        "Distance": "distance",
        "DDIM": "baseline_ddim",
        "Ancestral": "baseline_ancestral",
        "Kernel distance": "kernel_distance",
        "Precision": "precision",
        "Recall": "recall",
        "Class score": "inception_score",
    }
    compared = {
        "To teacher": "to_teacher",
        "Teacher itself": "teacher_itself",
        "Fréchet to teacher": "frechet_to_teacher",
        "Fréchet, teacher itself": "frechet_teacher_itself",
        "Diversity": "diversity",
        "Teacher's diversity": "teacher_diversity",
        "CLIP score": "clip_score",
        "Teacher's CLIP score": "teacher_clip_score",
    }
    columns |= {name: field for name, field in compared.items() if any(getattr(s, field) is not None for s in stages)}
    named = any(stage.objective not in (None, "progressive") for stage in stages)
    texts = ("Kind", "Objective") if named else ("Kind",)
    rows = [
        [
            f"{s.sampling_steps:,}",
            *(s.kind, s.objective or "–")[: len(texts)],
            *(number(getattr(s, field)) for field in columns.values()),
        ]
        for s in stages
    ]
    return TextTable(("Sampling steps", *texts, *columns), rows, frozenset(range(1 + len(texts))))


def quality_note(run: ReportInput) -> str:
    """Return what the columns of the quality table mean."""
    counts, name = counts_text(run), distance_label(distance_name_of(run))
    return (
        f"Distance: {name}{f' of {counts}' if counts else ''}, the checkpoint sampled with DDIM"
        " at its own number of steps. DDIM and Ancestral: the undistilled model at equally"
        " many steps. Class score: the Inception Score formula on the evaluator's class probabilities."
        f"{_teacher_note(run)}"
    )


def _teacher_note(run: ReportInput) -> str:
    steps = next((stage.teacher_steps for stage in run.checkpoints if stage.teacher_steps is not None), None)
    if steps is None:
        return ""
    return (
        " To teacher: the root mean square difference of pixels, 0 to 1, to the undistilled model's images at"
        f" {steps_text(steps)} from the same noise. Teacher itself: that of the undistilled model at the row's steps."
        " Fréchet to teacher: between the same images, in the evaluator's features. Diversity: the root mean square"
        " difference of pixels between images of one prompt or class. CLIP score: 100 × the mean cosine of an image and"
        " its prompt. The teacher's are those of its images."
    )


def cost_table(run: ReportInput) -> TextTable:
    """Return one row per checkpoint, then their sum: what training and evaluating it took."""
    price = run.price_per_hour

    def row(
        first: str, checkpoint: str, stages: Sequence[StageEntry], rates: tuple[str, str], device: str
    ) -> list[str]:
        training = sum(stage.seconds or 0.0 for stage in stages)
        evaluation = sum((stage.sampling_seconds or 0.0) + (stage.evaluation_seconds or 0.0) for stage in stages)
        machine = training + evaluation
        return [
            first,
            checkpoint,
            _total(stage.updates for stage in stages),
            _total(stage.images for stage in stages),
            _duration(training),
            *rates,
            _duration(evaluation),
            _duration(machine) if price is None else f"{machine / 3600 * price:,.2f}",
            device,
        ]

    def rates(stage: StageEntry) -> tuple[str, str]:
        utilization = stage.model_flops_utilization
        return _total([stage.images_per_second]), "–" if utilization is None else f"{utilization:.1%}"

    rows = [row(f"{s.sampling_steps:,}", s.id[:12], [s], rates(s), s.device or "–") for s in run.checkpoints]
    cost = "Machine time" if price is None else "Cost"
    columns = ("Checkpoint", "Updates", "Images", "Training", "Images/s", "MFU", "Evaluation", cost, "Device")
    rows.append(row("All", "", run.checkpoints, ("", ""), ""))
    return TextTable(("Sampling steps", *columns), rows, frozenset({0, 1, 9}))


def cost_note(run: ReportInput) -> str:
    """Return what the columns of the cost table mean, and which rows an earlier run paid for."""
    note = (
        "MFU (model FLOPs utilization): the share of the rate of one large product of matrices on the device that the"
        " model's arithmetic reached in training. Evaluation: sampling and measuring the stage, baselines included. "
    )
    if run.price_per_hour is None:
        note += "Machine time: the sum of training and evaluation."
    else:
        note += f"Cost: training and evaluation at {run.price_per_hour:g} per machine-hour."
    earlier = [s for s in run.checkpoints if s.created_by not in (None, f"{run.flow}/{run.run_id}")]
    if earlier:
        steps = ", ".join(steps_text(s.sampling_steps) for s in earlier)
        note += f" Trained by an earlier run and taken from the store: {steps}."
    return note


def _duration(seconds: float) -> str:
    return format_duration(seconds) if seconds else "–"


def _total(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known):,.0f}" if known else "–"
