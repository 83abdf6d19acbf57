"""`report.json`: the run's figures for programs, under names that stay: no torch."""

from typing import Any

from progdistill.report.input import ReportInput

SCHEMA_VERSION = 1

_KEPT_IN_INPUT = {"samples", "baseline_ddim_samples", "neighbours", "loss_curve"}


def report_json(run: ReportInput) -> dict[str, Any]:
    """Every fact of the report but pictures and loss curves, as JSON values."""
    facts = run.model_dump(mode="json", exclude={"checkpoints": {"__all__": _KEPT_IN_INPUT}})
    return {**facts, "schema_version": SCHEMA_VERSION}
