"""Figures that the paper published, to stand beside a run's own: no torch."""

from typing import NamedTuple


class PublishedResult(NamedTuple):
    """Distances by number of sampling steps, under the name of the distance and with their source."""

    distance_name: str
    source: str
    distances: dict[int, float]


PUBLISHED = {
    "cifar10": PublishedResult(
        "fid_legacy_tensorflow", "Salimans & Ho 2022, Table 2", {1: 9.12, 2: 4.51, 4: 3.00, 8: 2.57}
    ),
}
"""By dataset name. The paper's FID is TensorFlow's: figures of clean-fid's other mode do not compare."""


def published_for(dataset: str, distance_name: str | None) -> PublishedResult | None:
    """What the paper reports for a dataset in this very distance, None where nothing compares."""
    result = PUBLISHED.get(dataset)
    return result if result is not None and result.distance_name == distance_name else None
