"""The paper's results are shown only beside comparable results."""

import pytest

from progdistill.report.figures import PUBLISHED_RESULTS, curves_of
from progdistill.report.input import distance_label
from tests.report.runs import example_run


def test_table_2_is_quoted_as_published() -> None:
    source, distances = PUBLISHED_RESULTS["cifar10", "fid_legacy_tensorflow"]
    assert distances == {1: 9.12, 2: 4.51, 4: 3.00, 8: 2.57}
    assert source == "Salimans & Ho 2022, Table 2"


@pytest.mark.parametrize(("dataset", "name"), [("digits", "fid"), ("cifar10", "fid_clean"), ("cifar10", None)])
def test_other_distances_and_datasets_have_nothing_published(dataset: str, name: str | None) -> None:
    run = example_run(dataset=dataset)
    stages = tuple(stage.model_copy(update={"distance_name": name}) for stage in run.checkpoints)
    curves = curves_of(run.model_copy(update={"checkpoints": stages}))
    assert curves and not any("Published" in curve.label for curve in curves)


def test_a_comparable_run_shows_the_published_curve_marked_as_such() -> None:
    run = example_run(dataset="cifar10")
    stages = tuple(s.model_copy(update={"distance_name": "fid_legacy_tensorflow"}) for s in run.checkpoints)
    labels = [curve.label for curve in curves_of(run.model_copy(update={"checkpoints": stages}))]
    assert labels[-1] == "Published: Salimans & Ho 2022, Table 2"
    assert len(curves_of(run)) == 3


def test_axis_labels_are_true() -> None:
    assert distance_label("fid_legacy_tensorflow") == "FID (legacy tensorflow)"
    assert distance_label("frechet_digits_classifier") == "Fréchet distance (digits classifier features)"
