"""The tables of the report: what a stage cost, and in which run."""

import pytest

from progdistill.report.input import ReportInput, number
from progdistill.report.tables import cost_note, cost_table
from tests.report.runs import STEPS, example_run


@pytest.fixture(scope="module")
def run() -> ReportInput:
    return example_run()


def test_the_last_row_sums_up_all_stages(run: ReportInput) -> None:
    *stages, total = cost_table(run).rows
    assert len(stages) == len(STEPS)
    assert total[0] == "All"
    assert total[2] == f"{200 * len(STEPS):,}"
    assert total[4] == "2m20s"


def test_a_row_has_the_rate_of_a_training_and_its_share_of_what_the_device_does(run: ReportInput) -> None:
    table = cost_table(run)
    first, total = table.rows[0], table.rows[-1]
    assert table.header[5:7] == ("Images/s", "MFU") and first[5:7] == ["640", "12.5%"] and total[5:7] == ["", ""]
    unknown = run.checkpoints[0].model_copy(update={"model_flops_utilization": None})
    assert cost_table(run.model_copy(update={"checkpoints": (unknown,)})).rows[0][6] == "–"


def test_a_price_turns_machine_time_into_cost(run: ReportInput) -> None:
    table = cost_table(run.model_copy(update={"price_per_hour": 36.0}))
    assert table.header[8] == "Cost"
    assert [row[8] for row in table.rows] == ["0.23"] * len(STEPS) + ["1.62"]
    assert cost_table(run).header[8] == "Machine time"


def test_stages_that_an_earlier_run_trained_are_named(run: ReportInput) -> None:
    assert "earlier run" not in cost_note(run)
    first = run.checkpoints[0].model_copy(update={"created_by": "DistillFlow/1"})
    assert "taken from the store: 64 steps." in cost_note(
        run.model_copy(update={"checkpoints": (first, *run.checkpoints[1:])})
    )


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (0.8434, "0.843"), (10.0, "10.0"), (224.2, "224"), (1058.3, "1,058")]
)
def test_figures_have_three_digits_and_never_an_exponent(value: float | None, shown: str) -> None:
    assert number(value) == shown
