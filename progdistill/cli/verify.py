"""`progdistill checkpoints verify`: reads everything in a store, and checks it against its digests and its form."""

import argparse
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from progdistill.cli.common import print_json, store_of
from progdistill.errors import LostInvariantError, UsageError
from progdistill.escape import printable
from progdistill.progress import Progress
from progdistill.registry.checkpoint import list_ids, load_manifest, verify_weights
from progdistill.registry.gc import damaged_objects
from progdistill.registry.resolve import resolve_reference
from progdistill.store import layout
from progdistill.store.base import Store
from progdistill.store.documents import Record
from progdistill.store.layout import blob_key, checkpoint_key, evaluations_prefix


def verify(args: argparse.Namespace) -> int:
    """Verify one checkpoint or the whole store; exit status 1 if anything is damaged."""
    store = store_of(args)
    ids = [resolve_reference(store, args.reference).id] if args.reference else list_ids(store)
    read: set[str] = set()
    results = []
    with Progress("verifying", total=len(ids), unit="checkpoints") as progress:
        for checkpoint_id in ids:
            results.append(_verified(store, checkpoint_id, read))
            progress.advance()
    prefix = evaluations_prefix(ids[0]) if args.reference else ""
    for key, error in damaged_objects(store, prefix, read, _record_at()):
        results.append({"key": key, "intact": False, "problem": str(error)})
    if args.json:
        print_json(results)
    elif not results:
        print(f"no checkpoint in {store.uri} yet", file=sys.stderr)
    else:
        for result in results:
            name = result["id"][:12] if "id" in result else result["key"]
            print(printable(f"{name}  {'intact' if result['intact'] else result['problem']}"))
    return 0 if all(result["intact"] for result in results) else 1


def _verified(store: Store, checkpoint_id: str, read: set[str]) -> dict[str, Any]:
    """Whether a checkpoint is intact; the keys that were read are added to `read`."""
    problem = None
    try:
        read.add(checkpoint_key(checkpoint_id))
        manifest = load_manifest(store, checkpoint_id)
        read.add(blob_key(manifest.identity.weights.sha256))
        verify_weights(store, manifest)
    except (LostInvariantError, UsageError) as error:
        problem = str(error)
    return {"id": checkpoint_id, "intact": problem is None, "problem": problem}


def _record_at() -> Callable[[str], type[Record] | None]:
    """From a key to the class of the document there; None where this release knows no such document."""
    from progdistill.evaluation.generated import GeneratedImages
    from progdistill.evaluation.measurement import Neighbors
    from progdistill.evaluation.reference import ReferenceStatistics
    from progdistill.evaluation.shards import ShardRecord
    from progdistill.features.manifest import EvaluatorManifest, RecipeRecord
    from progdistill.jobs.spec import JobResult
    from progdistill.registry.aliases import Alias
    from progdistill.registry.checkpoint import CheckpointManifest
    from progdistill.registry.evaluations import Measurement
    from progdistill.registry.pipeline import PipelineManifest
    from progdistill.registry.runs import RunCheckpoint
    from progdistill.store.open import StoreLayout
    from progdistill.training.snapshots import ShardFacts

    kinds: dict[str, type[Record]] = {
        f"{layout.ALIASES}*": Alias,
        checkpoint_key("*"): CheckpointManifest,
        f"{layout.EVALUATIONS}*": Measurement,
        f"{layout.EVALUATOR_RECIPES}*": RecipeRecord,
        layout.evaluator_key("*"): EvaluatorManifest,
        layout.reference_key("*", "*", "*"): ReferenceStatistics,
        layout.job_result_key("*"): JobResult,
        layout.LAYOUT_KEY: StoreLayout,
        f"{layout.NEIGHBORS}*": Neighbors,
        f"{layout.PIPELINES}*": PipelineManifest,
        f"{layout.RUNS}*": RunCheckpoint,
        f"{layout.SHARDS}*/images-*": GeneratedImages,
        f"{layout.SHARDS}*": ShardRecord,
        f"{layout.SNAPSHOTS}*": ShardFacts,
    }
    return lambda key: next((kind for pattern, kind in kinds.items() if fnmatchcase(key, pattern)), None)
