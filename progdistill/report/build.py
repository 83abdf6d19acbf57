"""Builds the report of a run."""

import json
import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from progdistill.errors import UsageError
from progdistill.report.figures import curves_of, draw_distance_chart, png
from progdistill.report.input import INPUT_FILE, ReportInput, counts_text, distance_name_of
from progdistill.report.page import report_page
from progdistill.report.samples import draw_samples


def write_whole(path: Path, data: bytes) -> None:
    """Write beside the file first, then put it in place in one step."""
    draft = path.with_name(f".{path.name}")
    draft.write_bytes(data)
    os.replace(draft, path)


SCHEMA_VERSION = 1

_KEPT_IN_INPUT = {"samples", "baseline_ddim_samples", "neighbors", "loss_curve"}


def report_json(run: ReportInput) -> dict[str, Any]:
    """Every fact of the report but pictures and loss curves, as JSON values."""
    facts = run.model_dump(mode="json", exclude={"checkpoints": {"__all__": _KEPT_IN_INPUT}})
    return {**facts, "schema_version": SCHEMA_VERSION}


def build_report(run: ReportInput, out: Path) -> Path:
    """Write report.html, report.json, fid_vs_steps.png and samples.png into `out`; return the HTML's path.

    Each file is whole or absent: a reader never meets half a report.
    """
    out.mkdir(parents=True, exist_ok=True)
    title = f"Distance against sampling steps, {run.dataset}"
    note = " · ".join(filter(None, (counts_text(run), "lower is nearer to the real images")))
    chart = draw_distance_chart(curves_of(run), distance_name_of(run), title, note)
    for name, figure in (("fid_vs_steps.png", chart), ("samples.png", draw_samples(run))):
        write_whole(out / name, png(figure))
    write_whole(out / INPUT_FILE, run.model_dump_json().encode())
    write_whole(out / "report.json", (json.dumps(report_json(run), indent=2) + "\n").encode())
    write_whole(out / "report.html", report_page(run).encode())
    return out / "report.html"


def rebuild_report(folder: Path, *, price_per_hour: float | None = None) -> Path:
    """Make a report again from the input that lies beside it; UsageError where there is none.

    A machine's price, in any currency, is kept for the next time.
    """
    run = read_input(folder)
    if price_per_hour is not None:
        run = run.model_copy(update={"price_per_hour": price_per_hour})
    return build_report(run, folder)


def read_input(folder: Path) -> ReportInput:
    """What a report was made from; UsageError where there is none, or this version cannot read it."""
    source = folder / INPUT_FILE
    if not source.exists():
        raise UsageError(f"{folder} holds no report: {source.name} is missing, so the run did not get as far")
    try:
        return ReportInput.model_validate_json(source.read_bytes())
    except ValidationError as error:
        raise UsageError(
            f"{source} is not an input that this version reads: {error.errors()[0]['msg']}"
        ) from None
