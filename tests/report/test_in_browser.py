"""The report in a real browser: figures render, links work, it fits a phone, and it loads nothing."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from progdistill.report.comparison import build_comparison
from tests.report.browser import Page, chromium
from tests.report.runs import example_run

PHONE, DESK = 390, 1100


@pytest.fixture
def report(built_report: Path) -> Path:
    return built_report


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_every_figure_renders(browser: Page, report: Path, width: int) -> None:
    browser.open(report, width)
    pictures = browser.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0 && i.width > 25)")
    assert len(pictures) == 14 + 3 + 8 * 4
    assert all(pictures)
    charts = browser.evaluate(
        "[...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect().height)"
        ".filter(height => height > 0)"
    )
    assert len(charts) == 1 + 7
    assert all(height > 100 for height in charts)


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_type_in_the_charts_is_readable(browser: Page, report: Path, width: int) -> None:
    """CSS pixels as drawn, after the chart was fitted to the page: nowhere below eight and a half."""
    browser.open(report, width)
    sizes = browser.evaluate(
        "[...document.querySelectorAll('figure svg')].filter(s => s.getBoundingClientRect().height > 0)"
        ".flatMap(s => [...s.querySelectorAll('text')].map("
        "t => parseFloat(getComputedStyle(t).fontSize) * s.getScreenCTM().a))"
    )
    assert len(sizes) > 50
    assert min(sizes) >= 8.5


def test_the_first_noise_gives_a_row_under_the_names_of_its_classes(browser: Page, report: Path) -> None:
    """Every class name stands over the middle of its column, within a tenth of the column's width."""
    browser.open(report, PHONE)
    off = browser.evaluate(
        "[...document.querySelectorAll('.samples')].flatMap(part => {"
        " const box = part.querySelector('img').getBoundingClientRect();"
        " return [...part.querySelectorAll('.columns span')].map((name, i) => {"
        "  const own = name.getBoundingClientRect(), middle = box.left + box.width * (i + 0.5) / 10;"
        "  return Math.abs((own.left + own.right) / 2 - middle) / (box.width / 10); }); })"
    )
    assert len(off) == 20
    assert max(off) < 0.1


def test_nothing_but_the_file_itself_is_asked_for(browser: Page, report: Path) -> None:
    browser.requests.clear()
    browser.open(report, DESK)
    assert [url for url in browser.requests if not url.startswith("data:")] == [report.absolute().as_uri()]


def test_every_link_scrolls_to_its_section(browser: Page, report: Path) -> None:
    browser.open(report, DESK)
    links = browser.evaluate("[...document.querySelectorAll('nav a')].map(a => { a.click(); return location.hash; })")
    assert len(links) == 10
    assert browser.evaluate("[...document.querySelectorAll('nav a')].every(a => document.querySelector(a.hash))")
    assert browser.evaluate("scrollY") > 0


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_the_page_itself_never_scrolls_sideways_on_a_phone(
    browser: Page, report: Path, tmp_path: Path, name: str
) -> None:
    other = example_run("1700000001", configuration={"seed": 1})
    page = report if name == "report" else build_comparison([example_run(), other], tmp_path)
    browser.open(page, PHONE)
    assert browser.evaluate("document.documentElement.scrollWidth") <= PHONE
    assert browser.evaluate("parseFloat(getComputedStyle(document.body).fontSize)") >= 16


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(browser: Page, report: Path, scheme: str) -> None:
    """WCAG's contrast ratio of at least 4.5 for every color that text has."""
    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(report, DESK)
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    colors = browser.evaluate(
        "[...new Set([...document.querySelectorAll('h1,h2,p,a,th,td,dt,dd,figcaption,svg text')]"
        ".map(e => e.tagName === 'text' ? getComputedStyle(e).fill : getComputedStyle(e).color))]"
    )
    assert len(colors) >= 3
    assert all(_contrast(color, paper) >= 4.5 for color in colors)


def test_a_picture_of_the_page_is_not_blank(browser: Page, report: Path) -> None:
    browser.open(report, DESK)
    with Image.open(io.BytesIO(browser.screenshot())) as picture:
        assert picture.height > 2000
        assert np.asarray(picture.convert("L")).std() > 15


def _contrast(first: str, second: str) -> float:
    lighter, darker = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: str) -> float:
    channels = [int(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_on_paper_it_is_black_on_white_whole_and_without_navigation(browser: Page, report: Path) -> None:
    """Printed from a dark screen, on A4 at 96 pixels an inch."""
    browser.open(report, 794)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.send("Emulation.setEmulatedMedia", media="print", features=dark)
    try:
        colors = browser.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        assert colors == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]
        assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
        assert browser.evaluate("document.documentElement.scrollWidth") <= 794
    finally:
        browser.send("Emulation.setEmulatedMedia", media="", features=[])
