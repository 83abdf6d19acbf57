"""What a network and a denoiser are, as facts that fit in a manifest: no torch, no weights."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from progdistill.diffusion.names import PredictionType
from progdistill.models.foreign_schedule import ForeignSchedule

TIME_SCALE = 8192
"""Times are shown to networks as 8192·t − 1, the index that a stock scheduler with 8192 steps would pass."""


class UNetConfig(BaseModel):
    """The shape of a U-Net after Dhariwal & Nichol (2021), "Diffusion models beat GANs on image synthesis".

    The fields below `condition_channels` exist for networks trained elsewhere; the defaults are that paper's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    image_channels: int = Field(gt=0)
    image_size: int = Field(gt=0, description="height and width in pixels")
    base_channels: int = Field(gt=0)
    channel_multipliers: tuple[int, ...] = Field(
        min_length=1, description="of base_channels, one a resolution"
    )
    residual_blocks: int = Field(gt=0, description="a resolution on the way down; one more on the way up")
    attention_resolutions: tuple[int, ...] = Field(
        default=(), description="heights in pixels that have attention"
    )
    head_channels: int | None = Field(
        default=None, gt=0, description="width of an attention head; None: a single head"
    )
    num_classes: int = Field(default=0, ge=0, description="0: unconditional")
    label_dropout: bool = Field(
        default=False, description="one more label, num_classes, stands for 'no class'"
    )
    guidance_input: bool = Field(
        default=False, description="the guidance weight is an input (Meng et al. 2023)"
    )
    dropout: float = Field(default=0.0, ge=0, lt=1)
    groups: int = Field(default=32, gt=0, description="of each group normalisation")
    condition_channels: int | None = Field(
        default=None, gt=0, description="width of the embedding of time and label; None: 4·base_channels"
    )

    resampling: Literal["residual", "convolution"] = "residual"
    conditioning: Literal["scale_shift", "shift"] = "scale_shift"
    middle_attention: Literal["normed", "plain", "none"] = Field(
        default="normed", description="plain: attention in the middle without its group normalisation"
    )
    group_epsilon: float = Field(default=1e-5, gt=0)
    time_features: Literal["sin_cos", "cos_sin"] = "sin_cos"
    time_frequency_shift: Literal[0, 1] = Field(
        default=1, description="frequencies are 10000^(−i/(half − shift))"
    )
    downsample_padding: Literal[0, 1] = Field(
        default=1, description="of strided convolutions; 0 pads right and bottom"
    )

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels at each resolution, from the highest resolution down."""
        return tuple(self.base_channels * multiplier for multiplier in self.channel_multipliers)

    @property
    def condition_width(self) -> int:
        """Width of the embedding of time, label and guidance."""
        return self.condition_channels or 4 * self.base_channels

    @property
    def label_rows(self) -> int:
        """Rows of the class embedding: the classes, and the label 'no class' where labels are dropped."""
        return self.num_classes + int(self.label_dropout)

    def has_attention(self, level: int) -> bool:
        """Whether the resolution `level` halvings below the image has attention."""
        return self.image_size >> level in self.attention_resolutions

    @model_validator(mode="after")
    def _fits_together(self) -> "UNetConfig":
        if self.channel_multipliers[0] != 1:
            raise ValueError(f"channel_multipliers start with {self.channel_multipliers[0]}, not with 1")
        halvings = len(self.channel_multipliers) - 1
        if self.image_size % 2**halvings:
            raise ValueError(f"image_size {self.image_size} cannot be halved {halvings} times")
        reached = {self.image_size >> level for level in range(halvings + 1)}
        if stray := sorted(set(self.attention_resolutions) - reached):
            raise ValueError(f"attention_resolutions {stray} are none of the resolutions {sorted(reached)}")
        for channels in self.level_channels:
            if channels % self.groups:
                raise ValueError(f"{channels} channels do not divide into {self.groups} groups")
            if self.head_channels and channels % self.head_channels:
                raise ValueError(f"{channels} channels do not divide into heads of {self.head_channels}")
        if self.label_dropout and not self.num_classes:
            raise ValueError("label_dropout needs num_classes > 0: there are no labels to drop")
        if self.guidance_input and not self.num_classes:
            raise ValueError("guidance_input needs num_classes > 0: guidance is towards a class")
        if self.base_channels % 2:
            raise ValueError(
                f"base_channels {self.base_channels} is odd; half are sines, half cosines of the time"
            )
        return self


class CosineTime(BaseModel):
    """The network reads the time as 8192·t − 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["cosine-8192"] = "cosine-8192"


class ForeignTime(BaseModel):
    """The network reads the (fractional) index at which another, discrete schedule has the log-SNR of t."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["foreign"] = "foreign"
    schedule: ForeignSchedule


TimeInput = Annotated[CosineTime | ForeignTime, Field(discriminator="kind")]


class DenoiserConfig(BaseModel):
    """A network, what its output means, and how it reads the time."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    network: UNetConfig
    prediction: PredictionType
    time_input: TimeInput = CosineTime()

    @property
    def out_channels(self) -> int:
        """Channels the network puts out: (x, ε) models predict two images."""
        pair = self.prediction is PredictionType.X_EPS
        return self.network.image_channels * (2 if pair else 1)
