"""Guidance weights: the range that a student learns, and which weight a checkpoint can be sampled with."""

import sys

from pydantic import Field, model_validator

from progdistill.errors import UsageError
from progdistill.models.config import DenoiserConfig
from progdistill.models_base import Frozen
from progdistill.registry.checkpoint import CheckpointKind, CheckpointManifest

LABEL_DROPOUT = 0.1
"""Share of labels dropped for a model that is to be guided (Ho & Salimans 2021 found 0.1 and 0.2 best)."""

GUIDANCE_WEIGHT = "network.time_embedding.guidance_proj.weight"
"""The one weight that a guided student has beyond its teacher's."""


class GuidanceRange(Frozen):
    """The guidance weights w that a student has learned to take as an input; 0 is no guidance."""

    lowest: float = Field(ge=0, allow_inf_nan=False)
    highest: float = Field(ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _is_not_inverted(self) -> "GuidanceRange":
        if self.highest < self.lowest:
            raise ValueError(f"the range goes down from {self.lowest:g} to {self.highest:g}")
        return self

    def __contains__(self, weight: float) -> bool:
        return self.lowest <= weight <= self.highest

    def __str__(self) -> str:
        return f"{self.lowest:g}:{self.highest:g}"


def parse_guidance(text: str) -> GuidanceRange:
    """Turn `LOWEST:HIGHEST` into a range of guidance weights; `W` alone is a range of one weight.

    Raises UsageError for anything but one or two numbers, 0 ≤ lowest ≤ highest.
    """
    lowest, separator, highest = text.partition(":")
    how = "write --guidance LOWEST:HIGHEST with 0 ≤ LOWEST ≤ HIGHEST, such as 0:4"
    try:
        ends = float(lowest), float(highest if separator else lowest)
    except ValueError:
        raise UsageError(f"--guidance {text!r} is no range of numbers; {how}") from None
    if not 0 <= ends[0] <= ends[1] < float("inf"):
        raise UsageError(f"--guidance {text!r} is no range of weights; {how}")
    return GuidanceRange(lowest=ends[0], highest=ends[1])


def range_of(manifest: CheckpointManifest) -> GuidanceRange | None:
    """The weights that a guided student was trained with; None for a model without guidance as an input."""
    if not DenoiserConfig.model_validate(manifest.identity.architecture).network.guidance_input:
        return None
    return GuidanceRange.model_validate(manifest.identity.training["guidance"])


def can_be_guided(manifest: CheckpointManifest) -> bool:
    """Whether two questions a step guide this model: it was trained, not distilled, with dropped labels.

    Distillation without guidance teaches a student nothing about "no class".
    """
    network = DenoiserConfig.model_validate(manifest.identity.architecture).network
    return network.label_dropout and manifest.identity.kind is not CheckpointKind.STUDENT


def takes_guidance(manifest: CheckpointManifest) -> bool:
    """Whether samples of a checkpoint can be guided, by an input or by two questions a step."""
    return range_of(manifest) is not None or can_be_guided(manifest)


def weight_for(manifest: CheckpointManifest, asked: float | None) -> float | None:
    """The weight to sample a checkpoint with: as asked, else the lowest that a guided student knows.

    A weight that a student has not learned is taken with a note on standard error. Raises UsageError for a
    negative weight, and for a model that cannot be guided.
    """
    if asked is not None and not 0 <= asked < float("inf"):
        raise UsageError(f"guidance {asked:g}: give a weight from 0 (no guidance) upward")
    known = range_of(manifest)
    if known is None:
        if asked is not None and not can_be_guided(manifest):
            raise UsageError(
                f"{manifest.id[:12]} cannot be guided: leave the guidance out, or distill a model with"
                " --guidance LOWEST:HIGHEST and sample that"
            )
        return asked
    if asked is None:
        return known.lowest
    if asked not in known:
        print(f"note: {manifest.id[:12]} learned guidance {known}, not {asked:g}", file=sys.stderr)
    return asked
