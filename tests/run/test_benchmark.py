"""The rate that `plan --measure` takes from a shorter and a longer training."""

import logging

import pytest

from progdistill.registry.checkpoint import TrainingFigures
from progdistill.run.benchmark import rate_between


def training(updates: int, seconds: float) -> TrainingFigures:
    """What a training of so many updates of 64 images took on one rank."""
    images = 64 * updates
    return TrainingFigures(
        updates=updates,
        images=images,
        seconds=seconds,
        images_per_second=images / seconds,
        final_loss=0.1,
        job="distill",
        world_size=1,
    )


def test_what_happens_once_is_no_part_of_the_rate(caplog: pytest.LogCaptureFixture) -> None:
    rate = rate_between("distill", "cpu", training(3, seconds=5.0), training(23, seconds=7.0))
    assert rate.images_per_second == pytest.approx(20 * 64 / 2)
    assert not caplog.records


def test_a_disturbed_measurement_gives_the_longer_trainings_rate_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rate = rate_between("distill", "cpu", training(3, seconds=8.0), training(23, seconds=7.0))
    assert rate.images_per_second == pytest.approx(23 * 64 / 7)
    assert "quiet machine" in caplog.text
