"""Charts in the theme of reports."""

import itertools

import matplotlib
import pytest

from progdistill.report.figures import draw_distance_chart, round_ticks, tick_text, to_png, to_svg

RANGES = [(7.7, 224.0), (0.19, 0.82), (9e-5, 5e-3), (1.0, 1.0), (3.1, 3.4), (1e-4, 1e4)]


@pytest.mark.parametrize(("low", "high"), RANGES)
@pytest.mark.parametrize("most", [5, 7])
def test_any_range_has_a_few_ticks_in_order_near_it(low: float, high: float, most: int) -> None:
    ticks = round_ticks(low, high, most)
    assert 2 <= len(ticks) <= max(most, 9)
    assert all(first <= second for first, second in itertools.pairwise(ticks))
    assert all(low / 1.11 <= tick <= high * 1.11 for tick in ticks)


def test_a_chart_of_two_decades_is_marked_at_one_two_and_five() -> None:
    assert round_ticks(7.7, 224.0, 7) == [10, 20, 50, 100, 200]


def test_a_narrow_range_has_more_ticks_than_its_ends() -> None:
    assert round_ticks(1780.0, 2220.0, 7) == [1750, 2000, 2250]
    assert [tick_text(tick) for tick in (1750.0, 5.5, 0.05, 2e-5)] == ["1,750", "5.5", "0.05", "2e-5"]


def test_nothing_positive_to_draw_still_has_a_tick() -> None:
    assert round_ticks(float("inf"), float("-inf"), 7) == [1.0]


def test_drawing_leaves_the_settings_of_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams)
    figure = draw_distance_chart([], None)
    assert to_png(figure) and to_svg(figure, "an empty chart", "empty")
    assert dict(matplotlib.rcParams) == before


def test_a_chart_in_a_page_is_described_and_takes_its_colors_and_font_from_the_page() -> None:
    svg = to_svg(draw_distance_chart([], None), 'a "chart" of a < b', "empty")
    assert svg.startswith("<svg") and 'aria-label="a &quot;chart&quot; of a &lt; b"' in svg
    assert "var(--ink)" in svg and "var(--sans)" in svg
    assert "#1c2430" not in svg and "DejaVu" not in svg and "<metadata" not in svg
