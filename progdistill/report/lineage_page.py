"""The lineage as one HTML page that needs no network: zoom, pan, click a checkpoint for all its facts."""

import base64
import json
from importlib.resources import files
from typing import Any, Final

from progdistill.errors import LostInvariantError
from progdistill.registry.checkpoint import blob_key
from progdistill.registry.evaluations import ContactSheet, best_record
from progdistill.registry.lineage import LineageNode
from progdistill.store.base import Store

LARGEST_THUMBNAIL_BYTES: Final = 400_000


def render_html(store: Store, roots: list[LineageNode], highlighted: str | None = None) -> str:
    """Return the page; the checkpoint with id `highlighted` is marked."""
    facts = {
        "store": store.uri,
        "highlighted": highlighted,
        "roots": [_facts(store, root) for root in roots],
    }
    # "<" is escaped so that no fact can end the script it is embedded in.
    embedded = json.dumps(facts, ensure_ascii=False, default=str).replace("<", "\\u003c")
    template = files("progdistill.report").joinpath("lineage.html").read_text(encoding="utf-8")
    return template.replace("__LINEAGE__", embedded)


def _facts(store: Store, node: LineageNode) -> dict[str, Any]:
    record = best_record(node.manifest, node.evaluations)
    return {
        "id": node.manifest.id,
        "kind": node.manifest.identity.kind,
        "steps": node.manifest.identity.sampling_steps,
        "dataset": node.manifest.provenance.dataset_name,
        "aliases": node.aliases,
        "runs": node.runs,
        "distance": record.distance if record else None,
        "distance_name": record.distance_name if record else None,
        "thumbnail": _thumbnail(store, record.shown if record else None),
        "manifest": node.manifest.model_dump(mode="json"),
        "evaluations": [record.model_dump(mode="json") for record in node.evaluations],
        "children": [_facts(store, child) for child in node.children],
    }


def _thumbnail(store: Store, shown: ContactSheet | None) -> dict[str, Any] | None:
    """The samples shown with an evaluation: a contact sheet as data URI, and how many images it has."""
    if shown is None or shown.size_bytes > LARGEST_THUMBNAIL_BYTES:
        return None
    try:
        path = store.download(blob_key(shown.sha256), shown.file)
    except LostInvariantError:
        return None  # A picture that is gone is no reason to show no lineage.
    return {
        "uri": f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}",
        "images": shown.images,
    }
