"""Writes the tables of docs/results.md from the files that the experiments left.

python -m benchmarks.paper.tables
"""

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.paper.common import RESULTS

PAGE = Path(__file__).parents[2] / "docs" / "results.md"
_MARKED = re.compile(r"(<!-- (\w+)\.json -->\n).*?(<!-- end -->)", re.S)


def table_of(facts: dict[str, Any]) -> str:
    """An experiment's table in Markdown, below a line that says how it was run, and its pictures."""
    seeds = facts["seeds"]
    lines = [
        facts.get("note")
        or f"Dataset {facts['dataset']}; {seeds} seed{'s' * (seeds > 1)}; {facts['base_updates']:,} updates of a base"
        f" model, {facts['updates_per_stage']:,} of a stage; {facts['samples']:,} samples.",
        "",
        f"| {' | '.join(facts['header'])} |",
        f"|{'---|' * len(facts['header'])}",
        *(f"| {' | '.join(row)} |" for row in facts["rows"]),
        *(f"\n![{text}]({file})" for text, file in facts.get("pictures", {}).items()),
    ]
    return "\n".join(lines)


def page_with_tables(page: str) -> str:
    """The page with the table of each result file between the marks that name the file, if there is one."""

    def replace(found: re.Match[str]) -> str:
        file = RESULTS / f"{found[2]}.json"
        shown = table_of(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else "Not measured yet."
        return f"{found[1]}\n{shown}\n\n{found[3]}"

    return _MARKED.sub(replace, page)


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
