"""What MkDocs adds to the pages of this folder: the reference, from the code, and the repository's own pages.

The pages are made while the site is built, so they say what the code says.
"""

import json
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))

import reference  # noqa: E402  (beside this file; MkDocs imports hooks by path)

ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing/index.md",
    "CHANGELOG.md": "changes.md",
    "infra/README.md": "infra.md",
    "infra/metaflow/README.md": "infra_metaflow.md",
    "tests/README.md": "tests.md",
}
"""Pages of the repository outside docs/, and where the site has them; its first page is its own."""

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, and those from elsewhere in the repository."""
    for source, page in ELSEWHERE.items():
        if source != "README.md":
            files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for page, content in (*reference.pages(), *_notebooks()):
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead to pages of the site; a link to a file that the site does not have becomes its name."""
    own = page.file.src_uri
    sources = {page: source for source, page in ELSEWHERE.items() if page != "index.md"}
    return rewritten(markdown, sources.get(own, f"docs/{own}"), own)


def rewritten(markdown: str, source: str, page: str) -> str:
    """A page's text with its relative links as the site needs them.

    Args:
        markdown: The text.
        source: Path of its file in the repository, from which links start.
        page: Path of the page in the site.
    """

    def replace(link: re.Match[str]) -> str:
        image, text, target, anchor = link.groups(default="")
        if "://" in target or target.startswith("mailto:"):
            return link[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        there = ELSEWHERE.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
        there = there and re.sub(r"\.ipynb$", ".md", there)
        if there is None:
            if not (ROOT / file).exists():
                raise ValueError(f"{source}: the link to {target} leads nowhere")
            return text if image or "`" in text else f"`{file}`"
        return f"{image}[{text}]({posixpath.relpath(there, posixpath.dirname(page) or '.')}{anchor})"

    return _LINK.sub(replace, markdown)


def _notebooks() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        yield f"notebooks/{path.stem}.md", notebook_page(path)


def notebook_page(path: Path) -> str:
    """A notebook as a page: its text and code; outputs are not kept."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ("".join(cell["source"]) for cell in cells)
    parts = [
        text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"
        for cell, text in zip(cells, texts, strict=True)
    ]
    note = f"*This page is the notebook `docs/notebooks/{path.name}`; open it in Jupyter to run it.*"
    return "\n\n".join([parts[0], note, *parts[1:]])
