"""Finds the file of a network by its configuration."""

from progdistill.errors import UsageError
from progdistill.models.config import DiffusersConfig, UNetConfig
from progdistill.models.networks.base import Network


def network_of(config: UNetConfig | DiffusersConfig) -> Network:
    """The interface to networks of this configuration.

    Raises:
        UsageError: This version knows no such network.
    """
    if isinstance(config, UNetConfig):
        from progdistill.models.networks.unet import UNetNetwork

        return UNetNetwork()
    raise UsageError(f"networks of class {config.class_name} are not known to this version")
