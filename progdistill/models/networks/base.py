"""The interface between a denoiser and its network: to add a kind of network, write a file with such a class.

`registry.py` finds it by the configuration.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from progdistill.models.conditioning import Conditioning
from progdistill.models.config import DenoiserConfig


@runtime_checkable
class Network(Protocol):
    """How one kind of network is built and asked."""

    @property
    def guidance_parameter(self) -> str | None:
        """Name of the one parameter that a guidance input adds; None: such networks have no guidance input."""

    def build(self, config: DenoiserConfig) -> nn.Module:
        """Make the module on torch's current default device, `meta` included, with any weights."""

    def initialize(self, module: nn.Module, generator: torch.Generator) -> None:
        """Fill every parameter in place with its random initial value, a function of the generator's state alone."""

    def __call__(
        self, module: nn.Module, z: Tensor, time: Tensor, conditioning: Conditioning | None, w: Tensor | None
    ) -> Tensor:
        """Ask the network.

        Args:
            module: What `build` made.
            z: The state that the network was trained on, [batch, channels, height, width], in its dtype.
            time: Its time input, float32 [batch].
            conditioning: The columns of `config.network.columns`; None for an unconditional network.
            w: guidance_scale − 1, float32 [batch], for a network with a guidance input; None: 0.

        Returns:
            What its prediction type means, shaped like z, or with twice the channels for (x, ε).
        """

    def blocks(self, module: nn.Module) -> list[nn.Module]:
        """The modules with nearly all parameters and activations: units of checkpointing, sharding and compilation."""

    def last_layers(self, module: nn.Module) -> tuple[str, ...]:
        """Names of the parameters whose shape depends on the number of output channels."""
