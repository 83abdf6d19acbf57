"""The tree of teachers and students across all runs of a store."""

from collections.abc import Iterator
from typing import NamedTuple

from progdistill.errors import ProgdistillError
from progdistill.escape import one_line
from progdistill.registry.aliases import aliases_by_checkpoint
from progdistill.registry.checkpoint import CheckpointManifest, list_manifests
from progdistill.registry.evaluations import Measurement, best_record, evaluations_of
from progdistill.registry.resolve import resolve_reference
from progdistill.registry.runs import list_run_checkpoints
from progdistill.store.base import Store


class LineageNode(NamedTuple):
    """A checkpoint, what is attached to it, and its students in order of creation."""

    manifest: CheckpointManifest
    aliases: list[str]
    runs: list[str]
    """`Flow/run id` of every run that has it."""
    evaluations: list[Measurement]
    children: "list[LineageNode]"

    def walk(self) -> "Iterator[LineageNode]":
        """Yield this node, then all its descendants, depth first."""
        yield self
        for child in self.children:
            yield from child.walk()


def lineage_tree(
    store: Store, reference: str | None = None, unreadable: list[ProgdistillError] | None = None
) -> list[LineageNode]:
    """Return the trees of teachers and students in a store.

    Args:
        store: The store to read.
        reference: If given, only the tree that contains this checkpoint.
        unreadable: If given, errors of damaged records are appended here instead of raised.

    Returns:
        The roots: checkpoints without a parent, or whose parent is not in the store.
    """
    aliases = aliases_by_checkpoint(store, unreadable)
    entries = list_run_checkpoints(store, unreadable)
    nodes = {
        manifest.id: LineageNode(
            manifest,
            aliases=aliases.get(manifest.id, []),
            runs=sorted({f"{e.flow}/{e.run_id}" for e in entries if e.checkpoint_id == manifest.id}),
            evaluations=evaluations_of(store, manifest.id, unreadable),
            children=[],
        )
        for manifest in list_manifests(store, unreadable)
    }
    roots: list[LineageNode] = []
    for node in sorted(nodes.values(), key=lambda node: node.manifest.provenance.created_at):
        parent = nodes.get(node.manifest.identity.parent or "")
        (parent.children if parent else roots).append(node)
    if reference is None:
        return roots
    wanted = resolve_reference(store, reference).id
    return [root for root in roots if any(node.manifest.id == wanted for node in root.walk())]


def draw(roots: list[LineageNode], highlighted: str | None = None, head: str = "", indent: str = "") -> Iterator[str]:
    """Yield the trees as lines of text; an arrow marks the checkpoint with id `highlighted`.

    A teacher's first student is drawn straight below it, with the other students, the branches, in between. The
    first line begins with `head`, the others with `indent`.
    """
    for node in roots:
        mark = "  ◀" if node.manifest.id == highlighted else ""
        yield f"{head}● {describe(node)}{mark}"
        yield from draw(node.children[1:], highlighted, f"{indent}├─", f"{indent}│ ")
        yield from draw(node.children[:1], highlighted, indent, indent)


def describe(node: LineageNode) -> str:
    """Describe a checkpoint in one line: id, kind, sampling steps, dataset, aliases, runs, distance."""
    identity, provenance = node.manifest.identity, node.manifest.provenance
    count = identity.sampling_steps
    steps = "any steps" if count is None else f"{count} step{'s' if count > 1 else ''}"
    parts = [node.manifest.id[:12], str(identity.kind), steps, provenance.dataset_name]
    parts += [f"[{alias}]" for alias in node.aliases]
    parts += [", ".join(node.runs)] if node.runs else []
    if record := best_record(node.manifest, node.evaluations):
        parts.append(f"{record.distance_name} {record.distance:.3g}")
    return one_line("  ".join(parts))
