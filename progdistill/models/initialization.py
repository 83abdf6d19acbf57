"""Initial weights as a function of a generator alone."""

import math

import torch
from torch import nn

from progdistill.models.blocks import Attention, Residual, TimeEmbedding
from progdistill.models.unet import UNet


def initialize(network: UNet, generator: torch.Generator) -> None:
    """Fill every parameter in place, in a fixed order.

    Uniform in ±1/√fan_in as in Dhariwal & Nichol's code; but the last layer of each residual branch, of each
    attention and of the whole network begins at zero. So does the guidance input: a student copied from an
    unguided teacher starts as that teacher.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
            for parameter in module.parameters(recurse=False):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, generator=generator)
        elif isinstance(module, nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    for last in _last_layers(network):
        for parameter in last.parameters():
            nn.init.zeros_(parameter)


def _last_layers(network: UNet) -> list[nn.Module]:
    last: list[nn.Module] = [network.conv_out]
    for module in network.modules():
        if isinstance(module, Residual):
            last.append(module.conv2)
        elif isinstance(module, Attention):
            last.append(module.to_out)
        elif isinstance(module, TimeEmbedding) and module.guidance_proj is not None:
            last.append(module.guidance_proj)
    return last
