"""The named network architectures: no torch.

Sources: appendix E of the paper, and Dhariwal & Nichol (2021) for what it takes over "exactly".
"""

from progdistill.models.config import UNetConfig

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
    # "For 64 × 64 ImageNet we use their model exactly, with 192 channels at the highest resolution."
    "imagenet64": UNetConfig(
        image_channels=3,
        image_size=64,
        base_channels=192,
        channel_multipliers=(1, 2, 3, 4),
        residual_blocks=3,
        attention_resolutions=(32, 16, 8),
        head_channels=64,
        num_classes=1000,
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
    ),
}
