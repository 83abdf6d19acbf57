"""Writes the report of a run into a folder, and reads back what it was made from."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from progdistill.errors import UsageError
from progdistill.images import decode_contact_sheet
from progdistill.models_base import first_problem
from progdistill.report.figures import curves_of, draw_distance_chart, to_png
from progdistill.report.input import INPUT_FILE, ReportInput, counts_text, distance_name_of
from progdistill.report.page import report_page
from progdistill.report.samples import draw_samples
from progdistill.store.files import atomic_write

_ONLY_IN_INPUT = {"samples", "baseline_ddim_samples", "neighbors", "loss_curve"}


def report_json(run: ReportInput) -> dict[str, Any]:
    """Return every fact of the report except images and loss curves, as JSON values."""
    return run.model_dump(mode="json", exclude={"checkpoints": {"__all__": _ONLY_IN_INPUT}})


def build_report(run: ReportInput, out: Path) -> Path:
    """Write a run's report: report.html, report.json, fid_vs_steps.png, samples.png and its input.

    The folder is created if needed, and each file is replaced in one step. Returns the path of report.html.
    """
    out.mkdir(parents=True, exist_ok=True)
    title = f"Distance against sampling steps, {run.dataset}"
    note = " · ".join(filter(None, (counts_text(run), "lower is better")))
    chart = draw_distance_chart(curves_of(run), distance_name_of(run), title, note)
    atomic_write(out / "fid_vs_steps.png", to_png(chart))
    atomic_write(out / "samples.png", to_png(draw_samples(run)))
    atomic_write(out / INPUT_FILE, run.model_dump_json().encode())
    atomic_write(out / "report.json", (json.dumps(report_json(run), indent=2) + "\n").encode())
    atomic_write(out / "report.html", report_page(run).encode())
    return out / "report.html"


def rebuild_report(folder: Path, *, price_per_hour: float | None = None) -> Path:
    """Rebuild a report from the input file beside it, and return the path of report.html.

    The price of a machine-hour, in any currency, is stored in the input for later rebuilds. Raises UsageError if
    the folder holds no input, or one that this version cannot read.
    """
    run = read_input(folder)
    if price_per_hour is not None:
        run = run.model_copy(update={"price_per_hour": price_per_hour})
    return build_report(run, folder)


def read_input(folder: Path) -> ReportInput:
    """Read what a report was made from; UsageError if it is missing or this version cannot read it."""
    source = folder / INPUT_FILE
    if not source.exists():
        raise UsageError(f"no report in {folder}: {source.name} is missing; the run did not reach its report step")
    try:
        run = ReportInput.model_validate_json(source.read_bytes())
    except ValidationError as error:
        raise UsageError(
            f"cannot read {source}: {first_problem(error)}; rebuild it with the version that wrote it"
        ) from None
    for stage in run.checkpoints:
        sheets = [(sheet.png, sheet.images) for sheet in (stage.samples, stage.baseline_ddim_samples) if sheet]
        if (found := stage.neighbors) is not None:
            sheets.append((found.png, found.samples * (1 + found.nearest)))
        for png, count in sheets:
            try:
                decode_contact_sheet(png, count)
            except Exception as error:  # decoders of damaged files raise almost anything
                raise UsageError(f"cannot read {source}: a picture of {stage.id[:12]} is damaged: {error}") from None
    return run
