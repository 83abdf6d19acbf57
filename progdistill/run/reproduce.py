"""`--like REF`: a run with the configuration of the one that made a checkpoint, on the data as it is now."""

from typing import NamedTuple

from pydantic import ValidationError

from progdistill.config.options import DEFAULT_STORE, RunOptions
from progdistill.config.settings import Settings
from progdistill.errors import UsageError
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.registry.resolve import resolve_reference
from progdistill.store.open import open_store

DECIDED_BY_LIKE = ("from_", "preset", "guidance")
"""Options that say where a run starts, as `--like` does."""


def check_like(options: RunOptions) -> None:
    """Raise UsageError where `--like` meets an option that would contradict it."""
    for name in DECIDED_BY_LIKE:
        if options.like is not None and getattr(options, name) is not None:
            option = name.rstrip("_")
            raise UsageError(
                f"--like {options.like} decides what --{option} {getattr(options, name)} would: give one of"
                " them"
            )


class Like(NamedTuple):
    """A checkpoint, the settings of the run that made it, and the options with what follows from both."""

    checkpoint_id: str
    settings: Settings
    options: RunOptions


def reproduce(options: RunOptions) -> Like | None:
    """What `--like` names; None without it.

    A run that branched from a checkpoint starts from that checkpoint again. Raises UsageError for an unknown
    reference, and for a checkpoint that no run of ours made.
    """
    if options.like is None:
        return None
    check_like(options)
    store = open_store(options.store or DEFAULT_STORE)
    manifest = resolve_reference(store, options.like)
    settings = _configuration_of(manifest, options.like)
    follows = {"from_": settings.first_teacher, "dataset": options.dataset or settings.dataset}
    return Like(
        manifest.id,
        settings.model_copy(update={"first_teacher": None}),
        options.model_copy(update=follows),
    )


def _configuration_of(manifest: CheckpointManifest, reference: str) -> Settings:
    try:
        return Settings.model_validate(manifest.provenance.configuration)
    except ValidationError:
        raise UsageError(
            f"--like {reference}: checkpoint {manifest.id[:12]} ({manifest.identity.kind}) does not come with"
            " the configuration of a run of this version; name --dataset, --ladder and other settings, or"
            f" start from it with --from {reference}"
        ) from None
