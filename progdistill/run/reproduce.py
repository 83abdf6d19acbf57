"""`--reproduce REF`: run again with the settings of a checkpoint's run, on the dataset as it is now."""

from typing import NamedTuple

from pydantic import ValidationError

from progdistill.config.options import DEFAULT_STORE, RunOptions
from progdistill.config.settings import Settings
from progdistill.errors import UsageError
from progdistill.registry.resolve import resolve_reference
from progdistill.store.open import open_store


def check_reproduce(options: RunOptions) -> None:
    """Raise UsageError where `--reproduce` meets an option that would contradict it."""
    decided = {"from": options.start_from, "preset": options.preset, "guidance-scale": options.guidance_scale}
    for name, value in decided.items():
        if options.reproduce is not None and value is not None:
            raise UsageError(f"--reproduce {options.reproduce} decides what --{name} {value} would: give one of them")


class Reproduced(NamedTuple):
    """A checkpoint, the settings of its run, and the options with what follows from both."""

    checkpoint_id: str
    settings: Settings
    options: RunOptions


def reproduce(options: RunOptions) -> Reproduced | None:
    """What `--reproduce` names; None without it.

    A run that started from a checkpoint starts from that checkpoint again.

    Raises:
        UsageError: for an unknown reference, and for a checkpoint without a run's settings.
    """
    if options.reproduce is None:
        return None
    check_reproduce(options)
    store = open_store(options.store or DEFAULT_STORE)
    manifest = resolve_reference(store, options.reproduce)
    try:
        settings = Settings.model_validate(manifest.provenance.configuration)
    except ValidationError:
        raise UsageError(
            f"--reproduce {options.reproduce}: checkpoint {manifest.id[:12]} ({manifest.identity.kind}) does not have"
            " the settings of a run of this version; give --dataset, --ladder and other settings, or start from it"
            f" with --from {options.reproduce} (docs/how_to/branch.md#reproduce)"
        ) from None
    follows = {"start_from": settings.first_teacher, "dataset": options.dataset or settings.dataset}
    settings = settings.model_copy(update={"first_teacher": None})
    return Reproduced(manifest.id, settings, options.model_copy(update=follows))
