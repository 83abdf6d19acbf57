"""The computed size of a network equals its actual size."""

import pytest
import torch

from progdistill.models.config import ARCHITECTURES
from progdistill.models.networks.unet import UNet
from progdistill.models.size import parameter_count

VARIANTS = (
    {},
    {"guidance_input": True},
    {"label_dropout": True},
    {"middle_attention": "none"},
    {"middle_attention": "plain"},
    {"resampling": "convolution"},
    {"conditioning": "shift"},
    {"attention_resolutions": (8, 4)},
)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("out_channels", [1, 3, 6])
def test_the_count_is_that_of_the_network(name: str, out_channels: int) -> None:
    with torch.device("meta"):
        network = UNet(ARCHITECTURES[name], out_channels)
    assert parameter_count(ARCHITECTURES[name], out_channels) == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_option_is_counted(variant: dict[str, object]) -> None:
    config = ARCHITECTURES["digits"].model_copy(update=variant)
    with torch.device("meta"):
        network = UNet(config, 1)
    assert parameter_count(config, 1) == sum(p.numel() for p in network.parameters())
