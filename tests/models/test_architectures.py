"""Parameter counts of the named architectures; the large ones equal those of the published networks."""

import pytest
import torch

from progdistill.diffusion.names import PredictionType
from progdistill.models.config import ARCHITECTURES, DenoiserConfig
from progdistill.models.networks.unet import UNet
from progdistill.models.size import parameter_count


@pytest.mark.parametrize(
    ("name", "prediction", "count"),
    [
        ("cifar10", PredictionType.X, 60_004_099),
        ("imagenet64", PredictionType.V, 295_899_267),
        ("imagenet64", PredictionType.X_EPS, 295_904_454),
        ("lsun128", PredictionType.V, 139_576_771),
        ("lsun128", PredictionType.X_EPS, 139_578_502),
    ],
)
def test_parameter_counts_are_those_of_appendix_e(name: str, prediction: PredictionType, count: int) -> None:
    config = DenoiserConfig(network=ARCHITECTURES[name], prediction=prediction)
    assert parameter_count(config.network, config.out_channels) == count


def test_the_digits_network_is_small() -> None:
    assert 150_000 < parameter_count(ARCHITECTURES["digits"]) < 260_000


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_runs_forward_and_backward(name: str) -> None:
    """Images of its own size come out and every weight gets a gradient: on meta, where shapes alone count."""
    config = ARCHITECTURES[name]
    with torch.device("meta"):
        network = UNet(config, 2 * config.image_channels)
        z = torch.empty(2, config.image_channels, config.image_size, config.image_size)
        output = network(z, torch.zeros(2), torch.zeros(2, dtype=torch.int64))
        output.sum().backward()
    assert output.shape == (2, 2 * config.image_channels, config.image_size, config.image_size)
    assert all(p.grad is not None and p.grad.shape == p.shape for p in network.parameters())
