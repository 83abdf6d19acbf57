"""The guidance scale: the range that a student learns, and the one that a checkpoint is sampled with.

A guidance scale is what diffusers and most papers call it, 1 + w with the w of Ho & Salimans (2021): 1 is no
guidance. The networks and `progdistill.diffusion` work with w.
"""

import logging

from pydantic import Field, ValidationError, model_validator

from progdistill.errors import LostInvariantError, UsageError
from progdistill.models.config import DenoiserConfig
from progdistill.models_base import Frozen, first_problem
from progdistill.registry.checkpoint import CheckpointKind, CheckpointManifest

logger = logging.getLogger(__name__)

LABEL_DROPOUT = 0.1
"""Share of labels dropped in training a model to be guided (Ho & Salimans 2021: 0.1 to 0.2 is best)."""


IMPORTED_SCALE = 3.5
"""For sampling an imported network with a guidance input: the default of FluxPipeline, which has such a network."""


class GuidanceRange(Frozen):
    """The guidance scales that a student takes as an input, both ends included."""

    lowest: float = Field(ge=1, allow_inf_nan=False)
    highest: float = Field(ge=1, allow_inf_nan=False)

    @model_validator(mode="after")
    def _is_ordered(self) -> "GuidanceRange":
        if self.highest < self.lowest:
            raise ValueError(f"the lowest guidance scale {self.lowest:g} exceeds the highest {self.highest:g}")
        return self

    def __contains__(self, scale: float) -> bool:
        return self.lowest <= scale <= self.highest

    def __str__(self) -> str:
        return f"{self.lowest:g}:{self.highest:g}"


def parse_guidance_scale(text: str) -> GuidanceRange:
    """Parse `LOWEST:HIGHEST`, or `SCALE` for a range of one value.

    Raises:
        UsageError: for anything but one or two finite numbers with 1 ≤ lowest ≤ highest.
    """
    lowest, separator, highest = text.partition(":")
    try:
        return GuidanceRange(lowest=float(lowest), highest=float(highest if separator else lowest))
    except ValueError:
        raise UsageError(
            f"--guidance-scale {text!r} is not a range of guidance scales; write LOWEST:HIGHEST with"
            " 1 ≤ LOWEST ≤ HIGHEST, such as 1:5 (docs/how_to/guidance.md)"
        ) from None


def range_of(manifest: CheckpointManifest) -> GuidanceRange | None:
    """The guidance scales that a student was trained with; None where guidance is no input, or came with an import."""
    scales = manifest.identity.training.get("guidance_scale")
    if not DenoiserConfig.of(manifest.identity).network.guidance_input:
        return None
    if scales is None and manifest.identity.kind is CheckpointKind.IMPORTED:
        return None
    try:
        return GuidanceRange.model_validate(scales)
    except ValidationError as error:
        where = f"the guidance scales of checkpoint {manifest.id[:12]}"
        raise LostInvariantError(f"{where} cannot be read: {first_problem(error)}") from None


def can_be_guided(manifest: CheckpointManifest) -> bool:
    """Whether two evaluations a step guide this model: it was trained, not distilled, with dropped labels or prompts.

    Distillation without guidance teaches a student nothing about "no class". Models with prompts know the empty one.
    """
    network = DenoiserConfig.of(manifest.identity).network
    knows_none = network.label_dropout or any(column.name != "label" for column in network.columns)
    return knows_none and not network.guidance_input and manifest.identity.kind is not CheckpointKind.STUDENT


def takes_guidance(manifest: CheckpointManifest) -> bool:
    """Whether samples of a checkpoint can be guided, by an input or by two evaluations a step."""
    return DenoiserConfig.of(manifest.identity).network.guidance_input or can_be_guided(manifest)


def guidance_scale_for(manifest: CheckpointManifest, requested: float | None) -> float | None:
    """The guidance scale to sample a checkpoint with.

    Args:
        manifest: of the checkpoint.
        requested: at least 1; None: the lowest that a guided student was trained with, no guidance elsewhere.

    Returns:
        The scale, or None for a model without guidance or with its scale folded in. A scale that the student was
        not trained with is returned with a warning.

    Raises:
        UsageError: for a scale below 1, and for a model that cannot be guided.
    """
    if requested is not None and not 1 <= requested < float("inf"):
        raise UsageError(f"guidance scale {requested:g}: give a number from 1 (no guidance) upward")
    trained, config = range_of(manifest), DenoiserConfig.of(manifest.identity)
    if trained is None and config.network.guidance_input:
        return IMPORTED_SCALE if requested is None else requested
    if trained is None:
        if config.folded_guidance_scale is not None and requested not in (None, config.folded_guidance_scale):
            raise UsageError(
                f"{manifest.id[:12]} has guidance scale {config.folded_guidance_scale:g} folded in, and takes no other:"
                " leave the guidance scale out"
            )
        if config.folded_guidance_scale is not None:
            return None
        if requested is not None and not can_be_guided(manifest):
            raise UsageError(
                f"{manifest.id[:12]} cannot be guided: leave the guidance scale out, or distill a model with"
                " --guidance-scale LOWEST:HIGHEST and sample that"
            )
        return requested
    if requested is None:
        return trained.lowest
    if requested not in trained:
        logger.warning("note: %s was trained with guidance scales %s, not %g", manifest.id[:12], trained, requested)
    return requested
