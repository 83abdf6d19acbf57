"""Configurations of networks and denoisers, as manifests record them, and the paper's architectures."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, JsonValue, PositiveInt, Tag, ValidationError, model_validator

from progdistill.data.columns import LABEL_COLUMN
from progdistill.data.columns import Column as Column
from progdistill.diffusion.grid import AngleGrid, Grid
from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.noise_schedules import NoiseSchedule
from progdistill.errors import LostInvariantError, UsageError
from progdistill.models_base import TAG, Frozen, first_problem
from progdistill.registry.checkpoint import CheckpointDescription
from progdistill.store.digest import Sha256

GUIDANCE_FEATURES = 256
"""Width of the features of guidance that become an input of a network of diffusers: that of published students."""

TIME_SCALE = 8192
"""Our time input is 8192·t − 1, the index that a stock scheduler with 8192 steps passes."""


LARGEST_IMAGE = 2**14
"""Height and width in pixels; this and the other upper bounds keep arithmetic about a network's size cheap."""
_MOST_CHANNELS = 2**16


class UNetConfig(Frozen, allow_inf_nan=False):
    """The shape of a U-Net after Dhariwal & Nichol (2021), "Diffusion models beat GANs on image synthesis".

    The fields below `condition_channels` exist for networks trained elsewhere; the defaults are that paper's.
    """

    image_channels: int = Field(gt=0, le=_MOST_CHANNELS, description="1 for gray, 3 for RGB, more for latents")
    image_size: int = Field(gt=0, le=LARGEST_IMAGE, description="height and width in pixels")
    base_channels: int = Field(gt=0, le=_MOST_CHANNELS, description="width at the highest resolution")
    channel_multipliers: tuple[PositiveInt, ...] = Field(
        min_length=1, max_length=15, description="of base_channels, one per resolution"
    )
    residual_blocks: int = Field(gt=0, le=1000, description="per resolution on the way down; one more on the way up")
    attention_resolutions: tuple[int, ...] = Field(default=(), description="heights in pixels that have attention")
    head_channels: int | None = Field(default=None, gt=0, description="width of an attention head; None: a single head")
    num_classes: int = Field(default=0, ge=0, le=2**24, description="0: unconditional")
    label_dropout: bool = Field(default=False, description="one more label, num_classes, means 'no class'")
    guidance_input: bool = Field(default=False, description="the guidance scale is an input (Meng et al. 2023)")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="in residual blocks; students have none")
    groups: int = Field(default=32, gt=0, description="of each group normalization")
    condition_channels: int | None = Field(
        default=None,
        gt=0,
        le=4 * _MOST_CHANNELS,
        description="width of the embedding of time and label; None: 4·base_channels",
    )

    resampling: Literal["residual", "convolution"] = Field(
        default="residual", description="whether residual blocks or single convolutions change the resolution"
    )
    conditioning: Literal["scale_shift", "shift"] = Field(
        default="scale_shift", description="how the embedding acts on a normalized layer"
    )
    middle_attention: Literal["normed", "plain", "none"] = Field(
        default="normed", description="plain: attention in the middle without its group normalization"
    )
    group_epsilon: float = Field(default=1e-5, gt=0, description="of each group normalization")
    time_features: Literal["sin_cos", "cos_sin"] = Field(default="sin_cos", description="which half comes first")
    time_frequency_shift: Literal[0, 1] = Field(default=1, description="frequencies are 10000^(−i/(half − shift))")
    downsample_padding: Literal[0, 1] = Field(default=1, description="of strided convolutions; 0 pads right and bottom")

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a noisy sample."""
        return (self.image_channels, self.image_size, self.image_size)

    @property
    def columns(self) -> tuple[Column, ...]:
        """What the network is conditioned on."""
        return (LABEL_COLUMN,) if self.num_classes else ()

    def for_student(self, guidance_input: bool) -> "UNetConfig":
        """The student's network: without dropout (Appendix E)."""
        return self.model_copy(update={"dropout": 0.0, "guidance_input": guidance_input})

    @property
    def can_take_guidance(self) -> bool:
        """Whether the network has a place for the guidance scale as an input."""
        return True

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
        """Rows of the class embedding: the classes, and 'no class' with label dropout."""
        return self.num_classes + int(self.label_dropout)

    def has_attention(self, level: int) -> bool:
        """Whether the resolution `level` halvings below the image has attention."""
        return self.image_size >> level in self.attention_resolutions

    @model_validator(mode="after")
    def _fits_together(self) -> "UNetConfig":
        if self.channel_multipliers[0] != 1:
            raise ValueError(f"channel_multipliers must start with 1, not {self.channel_multipliers[0]}")
        halvings = len(self.channel_multipliers) - 1
        if self.image_size % 2**halvings:
            raise ValueError(f"image_size {self.image_size} cannot be halved {halvings} times")
        reached = {self.image_size >> level for level in range(halvings + 1)}
        if stray := sorted(set(self.attention_resolutions) - reached):
            raise ValueError(f"attention_resolutions {stray} are not among the resolutions {sorted(reached)}")
        for channels in self.level_channels:
            if channels > _MOST_CHANNELS:
                raise ValueError(f"{channels} channels are more than {_MOST_CHANNELS}")
            if channels % self.groups:
                raise ValueError(f"{channels} channels do not divide into {self.groups} groups (the setting groups)")
            if self.head_channels and channels % self.head_channels:
                raise ValueError(f"{channels} channels do not divide into heads of {self.head_channels}")
        if self.label_dropout and not self.num_classes:
            raise ValueError("label_dropout needs num_classes > 0")
        if self.guidance_input and not self.num_classes:
            raise ValueError("guidance_input needs num_classes > 0")
        if self.base_channels % 2:
            raise ValueError(
                f"base_channels {self.base_channels} is odd; half of them are sines of the time, half cosines"
            )
        return self


class DiffusersConfig(Frozen, allow_inf_nan=False):
    """A network of diffusers; its facts were read from its config.json by its file in `models/networks`."""

    kind: Literal["diffusers"] = "diffusers"
    class_name: str = Field(description="of diffusers, such as UNet2DConditionModel")
    arguments: dict[str, JsonValue] = Field(description="of its constructor")
    sample_shape: tuple[int, int, int] = Field(description="channels, height and width of a noisy sample")
    columns: tuple[Column, ...] = Field(default=(), description="what the network is conditioned on")
    num_classes: int = Field(default=0, ge=0, description="0: no column `label`")
    label_dropout: bool = Field(default=False, description="label num_classes means 'no class'")
    guidance_input: bool = Field(default=False, description="the guidance scale is an input")
    guidance_width: int = Field(
        default=0, ge=0, description="outputs of the layer that makes guidance an input; 0: no place for it"
    )
    parameters: int = Field(gt=0, description="number of parameters")

    @property
    def image_channels(self) -> int:
        """Channels of a noisy sample."""
        return self.sample_shape[0]

    @property
    def image_size(self) -> int:
        """Height and width of a noisy sample."""
        return self.sample_shape[1]

    @property
    def can_take_guidance(self) -> bool:
        """Whether the network has a place for the guidance scale as an input, which stock pipelines fill."""
        return self.guidance_input or self.guidance_width > 0

    def for_student(self, guidance_input: bool) -> "DiffusersConfig":
        """The student's network: without dropout; a guidance input that its teacher has stays.

        Raises:
            UsageError: The network has no place for a guidance input.
        """
        changes: dict[str, Any] = {}
        if "dropout" in self.arguments:
            changes["arguments"] = self.arguments | {"dropout": 0.0}
        if guidance_input and not self.guidance_input:
            if not self.guidance_width:
                raise UsageError(f"a {self.class_name} has no place for a guidance input: give one guidance scale")
            changes["guidance_input"] = True
            changes["parameters"] = self.parameters + self.guidance_width * GUIDANCE_FEATURES
        return self.model_copy(update=changes)


class LoraConfig(Frozen, allow_inf_nan=False):
    """An adapter of low rank on a frozen base (Hu et al. 2021): W + (alpha / rank)·B·A in each of its layers."""

    base: Sha256 = Field(description="id of the checkpoint that the adapter goes onto")
    rank: int = Field(gt=0)
    alpha: float = Field(gt=0)
    targets: tuple[str, ...] = Field(
        default=(), description="names of layers, or their last parts; empty: all linear layers and convolutions"
    )


class EDMConfig(Frozen, allow_inf_nan=False):
    """A network of EDM (Karras et al. 2022) or EDM2 (2024), as published."""

    kind: Literal["edm"] = "edm"
    architecture: Literal["ddpmpp", "ncsnpp", "adm", "edm2"]
    image_channels: int = Field(gt=0)
    image_size: int = Field(gt=0, description="height and width in pixels")
    base_channels: int = Field(gt=0, le=_MOST_CHANNELS)
    channel_multipliers: tuple[int, ...] = Field(min_length=1, description="of base_channels, one per resolution")
    residual_blocks: int = Field(gt=0, description="per resolution on the way down; one more on the way up")
    attention_resolutions: tuple[int, ...] = Field(default=(), description="heights in pixels that have attention")
    num_classes: int = Field(default=0, ge=0, description="0: unconditional")
    label_dropout: bool = Field(default=False, description="trained with labels dropped: num_classes means 'no class'")
    parameters: int = Field(gt=0, description="number of parameters")
    guidance_input: Literal[False] = False

    @property
    def class_name(self) -> str:
        """The architecture's name in messages."""
        return {"ddpmpp": "DDPM++", "ncsnpp": "NCSN++", "adm": "ADM of EDM", "edm2": "EDM2"}[self.architecture]

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a noisy sample."""
        return (self.image_channels, self.image_size, self.image_size)

    @property
    def columns(self) -> tuple[Column, ...]:
        """What the network is conditioned on."""
        return (LABEL_COLUMN,) if self.num_classes else ()

    @property
    def can_take_guidance(self) -> bool:
        """Whether there is a place for the guidance scale as an input."""
        return False

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels at each resolution, from the highest resolution down."""
        return tuple(self.base_channels * multiplier for multiplier in self.channel_multipliers)

    @property
    def condition_width(self) -> int:
        """Width of the embedding of time and label."""
        return max(self.level_channels) if self.architecture == "edm2" else 4 * self.base_channels

    @property
    def noise_width(self) -> int:
        """Number of features of the time."""
        if self.architecture == "edm2":
            return self.level_channels[0]
        return self.base_channels * (2 if self.architecture == "ncsnpp" else 1)

    def for_student(self, guidance_input: bool) -> "EDMConfig":
        """The student's network, which has no dropout.

        Raises:
            UsageError: A guidance input is wanted.
        """
        if guidance_input:
            raise UsageError(f"a {self.class_name} network has no place for a guidance input: give one guidance scale")
        return self


def _kind_of_network(config: Any) -> str:
    """Configurations of U-Nets have no `kind`."""
    return TAG + str(config.get("kind", "unet") if isinstance(config, dict) else getattr(config, "kind", "unet"))


NetworkConfig = Annotated[
    Annotated[UNetConfig, Tag(f"{TAG}unet")]
    | Annotated[DiffusersConfig, Tag(f"{TAG}diffusers")]
    | Annotated[EDMConfig, Tag(f"{TAG}edm")],
    Discriminator(_kind_of_network),
]


class DenoiserConfig(Frozen, allow_inf_nan=False):
    """A network, what its output means, what it reads as the time, and the pipeline of a latent model."""

    network: NetworkConfig
    prediction: PredictionType = Field(description="what the network's output means")
    foreign_schedule: NoiseSchedule | None = Field(
        default=None,
        description="of a network trained elsewhere: it is asked at the log-SNR of t in terms of this schedule;"
        " None: at 8192·t − 1",
    )
    grid: Grid = Field(default=AngleGrid(), description="the times of its sampling steps; students keep it")
    pipeline: Sha256 | None = Field(
        default=None, description="id of the VAE, text encoders and tokenizers (registry/pipeline.py); None: images"
    )
    lora: LoraConfig | None = Field(
        default=None, description="the checkpoint holds an adapter alone; None: it holds all weights"
    )
    folded_guidance_scale: float | None = Field(
        default=None, ge=1, description="guidance that is folded in: the network answers as its teacher did with it"
    )

    @classmethod
    def of(cls, checkpoint: CheckpointDescription) -> "DenoiserConfig":
        """The configuration of a checkpoint's denoiser, from its identity. LostInvariantError if that has none."""
        try:
            return cls.model_validate(checkpoint.architecture)
        except ValidationError as error:
            raise LostInvariantError(f"a checkpoint's architecture cannot be read: {first_problem(error)}") from None

    @property
    def unet(self) -> UNetConfig:
        """Our own network.

        Raises:
            UsageError: The network is another one.
        """
        if not isinstance(self.network, UNetConfig):
            raise UsageError(f"this is possible with our own U-Net only, not with a {self.network.class_name}")
        return self.network

    @property
    def edm(self) -> EDMConfig:
        """The configuration of a network of EDM or EDM2."""
        if not isinstance(self.network, EDMConfig):
            raise LostInvariantError("the network is none of EDM's")
        return self.network

    @property
    def out_channels(self) -> int:
        """Output channels of the network."""
        return self.network.image_channels * self.prediction.output_multiplier


ARCHITECTURES: dict[str, UNetConfig] = {
    # Chosen by measurement: the fastest of its quality on two CPU cores at 8×8 pixels.
    "digits": UNetConfig(
        image_channels=1,
        image_size=8,
        base_channels=16,
        channel_multipliers=(1, 2),
        residual_blocks=1,
        num_classes=10,
        groups=4,
    ),
    # For two CPU cores; not tuned.
    "emoji16": UNetConfig(
        image_channels=3,
        image_size=16,
        base_channels=32,
        channel_multipliers=(1, 2),
        residual_blocks=2,
        attention_resolutions=(8,),
        num_classes=10,
        groups=8,
    ),
    "emoji": UNetConfig(
        image_channels=3,
        image_size=32,
        base_channels=32,
        channel_multipliers=(1, 2, 2),
        residual_blocks=2,
        attention_resolutions=(8,),
        num_classes=10,
        groups=8,
    ),
    # "a fixed number of channels at all resolutions of 256 … downsamples the data twice, to 16 × 16 and to
    # 8 × 8 … 3 residual blocks … single-headed attention … only … at the 16 × 16 and 8 × 8 resolutions …
    # dropout of 0.2".
    "cifar10": UNetConfig(
        image_channels=3,
        image_size=32,
        base_channels=256,
        channel_multipliers=(1, 1, 1),
        residual_blocks=3,
        attention_resolutions=(16, 8),
        dropout=0.2,
    ),
    # "For 64 × 64 ImageNet we use their model exactly, with 192 channels at the highest resolution." The dropout is
    # that of their model and of the published configurations; the paper's text gives one for CIFAR-10 alone.
    "imagenet64": UNetConfig(
        image_channels=3,
        image_size=64,
        base_channels=192,
        channel_multipliers=(1, 2, 3, 4),
        residual_blocks=3,
        attention_resolutions=(32, 16, 8),
        head_channels=64,
        num_classes=1000,
        dropout=0.1,
    ),
    # "similar to that for ImageNet, but with a reduced number of 128 channels at the 64 × 64 resolution …
    # an additional level … the input resolution of 128 × 128 … 3 residual blocks with 64 channels …
    # attention layers for the resolutions of 32 × 32 and lower". The text leaves two things open: the widths
    # below 64 × 64 keep ImageNet's 1:2:3:4 here, and the embedding of the time keeps ImageNet's width.
    "lsun128": UNetConfig(
        image_channels=3,
        image_size=128,
        base_channels=64,
        channel_multipliers=(1, 2, 4, 6, 8),
        residual_blocks=3,
        attention_resolutions=(32, 16, 8),
        head_channels=64,
        condition_channels=768,
        dropout=0.1,
    ),
}
