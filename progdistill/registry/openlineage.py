"""A run's stages as OpenLineage run events, for tools that collect lineage across systems."""

import uuid
from datetime import timedelta
from typing import Any, Final

from progdistill.registry.checkpoint import CheckpointManifest, load_manifest
from progdistill.registry.runs import require_run
from progdistill.store.base import Store
from progdistill.store.layout import CHECKPOINTS
from progdistill.version import __version__

PRODUCER: Final = f"urn:progdistill:{__version__}"

SPECIFICATION: Final = "https://openlineage.io/spec"

_FACETS: Final = f"{SPECIFICATION}/facets/1-0-1"


def run_events(store: Store, run: str) -> list[dict[str, Any]]:
    """Return a START and a COMPLETE event for each checkpoint of `run` (`Flow/run id`), most steps first.

    Inputs are the dataset and the teacher, the output is the checkpoint. A training is said to have started
    as long before its end as it took, which is too late for one that was interrupted; an import ends as it
    starts. UsageError for an unknown run.
    """
    checkpoints = require_run(store, run)
    flow, _, run_id = run.partition("/")
    return [
        event
        for steps, checkpoint_id in checkpoints.items()
        for event in _start_and_end(store, flow, run_id, steps, load_manifest(store, checkpoint_id))
    ]


def _start_and_end(
    store: Store, flow: str, run_id: str, steps: int, manifest: CheckpointManifest
) -> list[dict[str, Any]]:
    identity, provenance = manifest.identity, manifest.provenance
    dataset = {
        "namespace": "progdistill-datasets",
        "name": provenance.dataset_name,
        "facets": {"version": _version(identity.dataset_fingerprint)},
    }
    parent_run = {"run": {"runId": _uuid(flow, run_id)}, "job": {"namespace": "progdistill", "name": flow}}
    parent_facet = _facet(f"{_FACETS}/ParentRunFacet.json#/$defs/ParentRunFacet", **parent_run)
    shared = {
        "producer": PRODUCER,
        "schemaURL": f"{SPECIFICATION}/2-0-2/OpenLineage.json#/$defs/RunEvent",
        "run": {"runId": _uuid(flow, run_id, str(steps)), "facets": {"parent": parent_facet}},
        "job": {"namespace": "progdistill", "name": f"{flow}.{steps}_steps", "facets": {}},
        "inputs": [dataset, *([_checkpoint(store, identity.parent)] if identity.parent else [])],
    }
    seconds = 0.0 if provenance.figures is None else provenance.figures.seconds
    started_at = provenance.created_at - timedelta(seconds=seconds)
    facts = _facet("urn:progdistill:checkpoint-manifest:1", manifest=manifest.model_dump(mode="json"))
    output = _checkpoint(store, manifest.id, progdistill_checkpoint=facts)
    return [
        {"eventType": "START", "eventTime": started_at.isoformat(), **shared, "outputs": []},
        {"eventType": "COMPLETE", "eventTime": provenance.created_at.isoformat(), **shared, "outputs": [output]},
    ]


def _checkpoint(store: Store, checkpoint_id: str, **facets: Any) -> dict[str, Any]:
    facets = {"version": _version(checkpoint_id), **facets}
    return {"namespace": store.uri, "name": f"{CHECKPOINTS}{checkpoint_id}", "facets": facets}


def _version(version: str) -> dict[str, Any]:
    return _facet(
        f"{_FACETS}/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet", datasetVersion=version
    )


def _facet(schema: str, **facts: Any) -> dict[str, Any]:
    return {"_producer": PRODUCER, "_schemaURL": schema, **facts}


def _uuid(*parts: str) -> str:
    """A UUID that is the same for the same run whenever it is exported."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(("progdistill", *parts))))
