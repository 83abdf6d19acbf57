"""Finds the file of a network by its configuration."""

from progdistill.errors import UsageError
from progdistill.models.config import DiffusersConfig, EDMConfig, UNetConfig
from progdistill.models.networks.base import Network
from progdistill.models.networks.diffusers import DiffusersNetwork
from progdistill.models.networks.dit import DiT
from progdistill.models.networks.edm import EDMNetwork
from progdistill.models.networks.edm2 import EDM2Network
from progdistill.models.networks.flux import Flux
from progdistill.models.networks.sana import Sana
from progdistill.models.networks.sd3 import SD3
from progdistill.models.networks.unet import UNetNetwork
from progdistill.models.networks.unet_condition import UNetCondition

DIFFUSERS_NETWORKS: dict[str, type[DiffusersNetwork]] = {
    network.class_name: network for network in (UNetCondition, DiT, SD3, Flux, Sana)
}
"""By the class of diffusers. To add one, write its file and name it here."""


def network_of(config: UNetConfig | DiffusersConfig | EDMConfig) -> Network:
    """The interface to networks of this configuration.

    Raises:
        UsageError: This version knows no such network.
    """
    if isinstance(config, UNetConfig):
        return UNetNetwork()
    if isinstance(config, EDMConfig):
        return EDM2Network() if config.architecture == "edm2" else EDMNetwork()
    return diffusers_network(config.class_name)(config)


def diffusers_network(class_name: str) -> type[DiffusersNetwork]:
    """The file of a class of diffusers; UsageError if there is none."""
    if class_name not in DIFFUSERS_NETWORKS:
        raise UsageError(
            f"networks of class {class_name} are not supported; supported are {', '.join(DIFFUSERS_NETWORKS)}"
        )
    return DIFFUSERS_NETWORKS[class_name]
