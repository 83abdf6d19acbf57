"""Settings of the features in which images are compared."""

from typing import Literal

from pydantic import Field

from progdistill.models_base import Frozen

EvaluatorName = Literal["digits_classifier", "inception", "efficientnet_lite0", "features_file"]
"""Whose features images are compared in. Distances in different features do not compare."""


class FeatureSettings(Frozen):
    """Which evaluator computes the features, and where its weights are."""

    evaluator: EvaluatorName = Field("digits_classifier", description="whose features are compared")
    inception_mode: Literal["legacy_tensorflow", "clean"] = Field(
        default="legacy_tensorflow",
        description="clean-fid mode: legacy_tensorflow compares with the paper, clean antialiases",
    )
    weights: str | None = Field(
        default=None, description="path or URI of the network's file, for inception and features_file"
    )
    weights_sha256: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="expected SHA-256 of weights"
    )
