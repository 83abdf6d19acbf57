"""Small pieces of HTML, each escaping what it is given: no torch."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

from progdistill.evaluation.pictures import Pixels, encode_png


def section(title: str, anchor: str, *content: str) -> str:
    """A section with a heading that links can lead to; nothing at all when there is no content."""
    inside = "\n".join(part for part in content if part)
    return f'<section id="{anchor}">\n<h2>{escape(title)}</h2>\n{inside}\n</section>' if inside else ""


def paragraph(text: str, css_class: str = "") -> str:
    """A paragraph of plain text."""
    attribute = f' class="{css_class}"' if css_class else ""
    return f"<p{attribute}>{escape(text)}</p>"


def figure(inner: str, caption: str) -> str:
    """A figure around ready HTML."""
    return f"<figure>{inner}<figcaption>{escape(caption)}</figcaption></figure>"


def chart(svg: str, caption: str) -> str:
    """A figure around ready SVG."""
    return figure(f'<div class="chart">{svg}</div>', caption)


def image(picture: Pixels, alt: str) -> str:
    """A picture inside the page itself."""
    data = base64.b64encode(encode_png(picture)).decode()
    height, width = picture.shape[:2]
    described = escape(alt, quote=True)
    return f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{described}">'


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: frozenset[int] = frozenset()
) -> str:
    """A table of plain text that scrolls sideways where it is too wide."""
    styles = [' class="text"' if column in text_columns else "" for column in range(len(header))]
    head = "".join(
        f'<th scope="col"{style}>{escape(cell)}</th>' for style, cell in zip(styles, header, strict=True)
    )
    body = "\n".join(
        "<tr>"
        + "".join(f"<td{style}>{escape(c)}</td>" for style, c in zip(styles, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of names and values."""
    return "<dl>" + "".join(f"<dt>{escape(n)}</dt><dd>{escape(v)}</dd>" for n, v in pairs) + "</dl>"


def details(summary: str, inner: str) -> str:
    """Ready HTML that opens on request."""
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>"
