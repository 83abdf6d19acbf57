"""Figures that the paper published, to stand beside a run's own: no torch."""

from typing import NamedTuple


class PublishedResult(NamedTuple):
    """Distances by number of sampling steps, under the name of the distance and with their source."""

    distance_name: str
    source: str
    distances: dict[int, float]


PUBLISHED = {
    "cifar10": PublishedResult("fid", "Salimans & Ho 2022, Table 2", {1: 9.12, 2: 4.51, 4: 3.00, 8: 2.57}),
}
"""By dataset name. A run's own figures compare with them only under the same distance name."""


def published_for(dataset: str, distance_name: str | None) -> PublishedResult | None:
    """What the paper reports for a dataset in this very distance, None where nothing compares."""
    result = PUBLISHED.get(dataset)
    comparable = (
        result is not None and distance_name is not None and distance_name.startswith(result.distance_name)
    )
    return result if comparable else None
