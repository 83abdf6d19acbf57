"""The lineage as one self-contained HTML page: zoom, pan, click a checkpoint for all its facts."""

import base64
from typing import Any, Final

from progdistill.errors import LostInvariantError
from progdistill.registry.evaluations import ContactSheet, best_record
from progdistill.registry.lineage import LineageNode
from progdistill.report.page import render
from progdistill.store.base import Store
from progdistill.store.layout import blob_key

LARGEST_THUMBNAIL_BYTES: Final = 400_000


def lineage_page(store: Store, roots: list[LineageNode], highlighted: str | None = None) -> str:
    """Return the page of the trees under `roots` (see `lineage_tree`), with the checkpoint `highlighted` marked."""
    facts = {"store": store.uri, "highlighted": highlighted, "roots": [_facts(store, root) for root in roots]}
    return render("lineage.html.j2", lineage=facts)


def _facts(store: Store, node: LineageNode) -> dict[str, Any]:
    record = best_record(node.manifest, node.evaluations)
    return {
        "id": node.manifest.id,
        "kind": node.manifest.identity.kind,
        "sampling_steps": node.manifest.identity.sampling_steps,
        "dataset": node.manifest.provenance.dataset_name,
        "aliases": node.aliases,
        "runs": node.runs,
        "distance": record.distance if record else None,
        "distance_name": record.distance_name if record else None,
        "thumbnail": _thumbnail(store, record.shown if record else None),
        "manifest": node.manifest.model_dump(mode="json"),
        "evaluations": [measurement.model_dump(mode="json") for measurement in node.evaluations],
        "children": [_facts(store, child) for child in node.children],
    }


def _thumbnail(store: Store, shown: ContactSheet | None) -> dict[str, Any] | None:
    """The contact sheet of an evaluation's samples as a data URI, and how many images it holds."""
    if shown is None or shown.file.size_bytes > LARGEST_THUMBNAIL_BYTES:
        return None
    try:
        path = store.download(blob_key(shown.file.sha256), shown.file)
    except LostInvariantError:
        return None  # A missing picture does not keep the lineage from being shown.
    data = base64.b64encode(path.read_bytes()).decode()
    return {"uri": f"data:image/png;base64,{data}", "images": shown.images}
