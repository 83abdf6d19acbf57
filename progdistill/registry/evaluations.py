"""What has been measured of a checkpoint: records of any kind that stand under its id, read as facts."""

from typing import Any

from progdistill.errors import ProgdistillError
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.store.base import Store
from progdistill.store.documents import list_facts

FOLDER = "evaluations/"


def evaluations_of(
    store: Store, checkpoint_id: str, unreadable: list[ProgdistillError] | None = None
) -> list[dict[str, Any]]:
    """Return the records under `evaluations/<checkpoint id>/`.

    A damaged one is a LostInvariantError, or with `unreadable` noted there and passed over.
    """
    return list(list_facts(store, f"{FOLDER}{checkpoint_id}/", unreadable))


def reported_only(evaluations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the measurements by which a γ was chosen.

    A reported one stands beside the one with DDIM that was asked alike in all but the sampler: on the same
    noise, of as many samples. Trials have noise of their own, which nothing else is drawn from.
    """
    with_ddim = [_asked_alike(record) for record in evaluations if _question(record).get("sampler") == "ddim"]
    return [
        record
        for record in evaluations
        if _question(record).get("gamma") is None or _asked_alike(record) in with_ddim
    ]


def _question(record: dict[str, Any]) -> dict[str, Any]:
    question: dict[str, Any] = record.get("question", {})
    return question


def _asked_alike(record: dict[str, Any]) -> dict[str, Any]:
    """The question without its sampler."""
    return {name: value for name, value in _question(record).items() if name not in ("sampler", "gamma")}


def headline(manifest: CheckpointManifest, evaluations: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the record that says how good the checkpoint is, None when none has a distance.

    A student is judged at the number of steps it was distilled to, others at the most steps measured; as in
    reports with DDIM where that was asked, and least guided. Of several such records the one with the most
    samples counts, then the newest.
    """
    measured = [record for record in evaluations if isinstance(record.get("distance"), int | float)]
    steps = manifest.identity.sampling_steps
    if steps is not None:
        measured = [record for record in measured if record.get("question", {}).get("steps", steps) == steps]
    return max(measured, key=_standing, default=None)


def _standing(record: dict[str, Any]) -> tuple[int, bool, float, int, str]:
    question = record.get("question", {})
    return (
        question.get("steps", 0),
        question.get("sampler") == "ddim",
        -(question.get("guidance") or 0.0),
        question.get("samples", 0),
        str(record.get("created_at", "")),
    )
