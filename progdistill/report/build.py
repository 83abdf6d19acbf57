"""Writes a run's report folder: HTML, JSON, pictures, and the input that they can be made from again."""

import json
from pathlib import Path

from pydantic import ValidationError

from progdistill.errors import UsageError
from progdistill.report.distance_chart import counts_text, curves_of, distance_name_of, draw_distance_chart
from progdistill.report.files import write_whole
from progdistill.report.input import INPUT_FILE, ReportInput
from progdistill.report.page import report_page
from progdistill.report.report_json import report_json
from progdistill.report.samples_figure import draw_samples
from progdistill.report.theme import png


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
