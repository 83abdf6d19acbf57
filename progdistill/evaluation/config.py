"""Settings of an evaluation."""

from pydantic import Field, PositiveInt, model_validator

from progdistill.features.config import FeatureSettings
from progdistill.registry.evaluations import Protocol

SPLITS = 10
"""Of the published Inception Score."""

ANCESTRAL_GAMMA = 0.3
"""The published evaluation's variance of ancestral sampling."""


class EvaluationSettings(FeatureSettings, allow_inf_nan=False):
    """What decides the figures of an evaluation. The defaults suit 8×8 digits on two CPU cores."""

    reference_statistics: str | None = Field(
        default=None, description="path or URI of an .npz with mu and sigma to compare with instead of the dataset"
    )
    reference_statistics_sha256: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="expected SHA-256 of reference_statistics"
    )
    samples: int = Field(
        default=1000, gt=1, le=10_000_000, description="images per measurement; distances compare only at equal counts"
    )
    batch_size: int = Field(default=250, gt=0, le=1_000_000, description="images sampled at once")
    seed: int = Field(
        default=0, ge=0, description="seed of the initial noise, the same for every checkpoint and sampler"
    )
    max_sampling_steps: int = Field(
        default=256, gt=0, description="checkpoints that take more sampling steps are not measured"
    )
    ancestral_gamma: float = Field(
        default=ANCESTRAL_GAMMA, ge=0, le=1, description="log-scale position of the variance in its bounds (0: lower)"
    )
    tuned_gammas: int = Field(
        default=0,
        ge=0,
        description="values of gamma to try at each number of steps (paper: 11); 0: only ancestral_gamma",
    )
    tuning_seed: int = Field(
        default=1, ge=0, description="seed of the noise that gamma is tuned on; must differ from seed"
    )
    tuning_samples: int | None = Field(
        default=None, gt=1, le=10_000_000, description="images per trial of gamma; None: samples"
    )
    stochastic_students: bool = Field(
        default=False, description="measure students with ancestral sampling too (the paper's Figure 6)"
    )
    guidance_scale: float | None = Field(
        default=None, ge=1, description="None: the lowest of a guided student's range, no guidance for other models"
    )
    teacher_samples: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="images compared with the undistilled model's from the same noise; 0: none, or 64 by pixels alone"
        " where nothing else can be measured",
    )
    teacher_steps: int = Field(default=64, gt=0, description="sampling steps of the undistilled model's images")
    images_per_prompt: int = Field(
        default=4, gt=0, description="of those compared with the undistilled model's; diversity needs 2 or more"
    )
    clip_model: str | None = Field(
        default=None, description="folder of a CLIP model of transformers: adds the CLIP score of images and prompts"
    )
    clip_model_sha256: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="expected SHA-256 of its model.safetensors"
    )
    clip: bool = Field(default=True, description="clip x̂ to [−1, 1] at every sampling step")
    protocol: Protocol = Field(
        default="whole",
        description="of the class score, KID, precision and recall: whole (all images at once) or published (ten"
        " splits; 100 subsets of 1,000; all samples against 10,000 real images)",
    )
    shown_samples: int = Field(default=20, ge=0, description="images kept for the report: the first of those measured")
    neighbors_at_steps: tuple[PositiveInt, ...] = Field(
        default=(4, 1),
        description="sampling steps of the checkpoints that are shown beside the nearest training images",
    )

    @model_validator(mode="after")
    def _can_be_measured(self) -> "EvaluationSettings":
        if self.teacher_samples == 1:
            raise ValueError("teacher_samples = 1 has no covariance: give 0, or 2 or more")
        if self.clip_model is not None and not self.teacher_samples:
            raise ValueError("clip_model needs images to score: set teacher_samples")
        if self.tuned_gammas == 1:
            raise ValueError("tuned_gammas = 1 leaves no choice: give 0, or 2 or more")
        if self.tuned_gammas and self.tuning_seed == self.seed:
            raise ValueError(f"tuning_seed equals seed, {self.seed}: gamma must be tuned on other noise")
        if self.protocol == "published" and self.samples < SPLITS:
            raise ValueError(f"protocol published needs {SPLITS} samples or more, not {self.samples}")
        return self
