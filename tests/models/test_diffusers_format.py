"""Our U-Net and diffusers' UNet2DModel compute the same."""

from typing import Any

import diffusers
import pytest
import torch

from progdistill.errors import UsageError
from progdistill.models.config import ARCHITECTURES, UNetConfig
from progdistill.models.diffusers_format import (
    config_from_diffusers,
    current_names,
    diffusers_config,
    weights_from_diffusers,
    weights_to_diffusers,
)
from progdistill.models.networks.unet import UNet


def narrow(name: str) -> UNetConfig:
    """A named architecture with few channels and few pixels, its levels and attention kept."""
    config = ARCHITECTURES[name]
    lowest = 2 ** (len(config.channel_multipliers) - 1)
    shrink = config.image_size // (2 * lowest)
    return config.model_copy(
        update={
            "base_channels": 16,
            "groups": 4,
            "image_size": config.image_size // shrink,
            "attention_resolutions": tuple(size // shrink for size in config.attention_resolutions),
            "head_channels": 8 if config.head_channels else None,
            "condition_channels": 48 if config.condition_channels else None,
            "num_classes": min(config.num_classes, 10),
            "dropout": 0.0,
        }
    )


def variant(**changes: Any) -> UNetConfig:
    """The digits network with some settings of networks trained elsewhere."""
    return ARCHITECTURES["digits"].model_copy(update=changes)


VARIANTS = {
    **{name: narrow(name) for name in ARCHITECTURES},
    "ho2020": variant(
        resampling="convolution", conditioning="shift", group_epsilon=1e-6, downsample_padding=0, num_classes=0
    ),
    "diffusers-defaults": variant(
        resampling="convolution", conditioning="shift", time_features="cos_sin", time_frequency_shift=0, head_channels=8
    ),
    "plain-middle": variant(middle_attention="plain", attention_resolutions=(4,)),
    "no-middle": variant(middle_attention="none"),
    "label-dropout": variant(label_dropout=True),
}


def random_network(config: UNetConfig, out_channels: int) -> UNet:
    """Every weight random: the zeros of initialization would hide most of the network."""
    torch.manual_seed(0)
    network = UNet(config, out_channels).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_outputs_of_the_twins_agree(name: str) -> None:
    config = VARIANTS[name]
    ours = random_network(config, 2 * config.image_channels)
    twin = diffusers.UNet2DModel(**diffusers_config(config, 2 * config.image_channels)).eval()
    twin.load_state_dict(weights_to_diffusers(ours.state_dict()))
    z = torch.randn(3, config.image_channels, config.image_size, config.image_size)
    time = torch.tensor([-1.0, 4095.0, 8191.0])
    labels = torch.tensor([0, 1, config.label_rows - 1]) if config.num_classes else None
    with torch.no_grad():
        expected = twin(z, time, class_labels=labels).sample
        found = ours(z, time, labels)
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_configuration_and_weights_survive_the_round_trip(name: str) -> None:
    config = VARIANTS[name]
    ours = random_network(config, config.image_channels)
    twin = diffusers.UNet2DModel(**diffusers_config(config, config.image_channels))
    back = config_from_diffusers(dict(twin.config), label_dropout=config.label_dropout)
    assert back.model_copy(update={"condition_channels": config.condition_channels}) == config
    assert back.condition_width == config.condition_width
    weights = weights_from_diffusers(weights_to_diffusers(ours.state_dict()))
    assert weights.keys() == ours.state_dict().keys()
    assert all(torch.equal(weights[key], value) for key, value in ours.state_dict().items())


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_keys_and_shapes_of_the_full_architectures_agree(name: str) -> None:
    config = ARCHITECTURES[name]
    with torch.device("meta"):
        ours, twin = UNet(config, 3), diffusers.UNet2DModel(**diffusers_config(config, 3))
    mapped = {key: tensor.shape for key, tensor in weights_to_diffusers(ours.state_dict()).items()}
    assert mapped == {key: tensor.shape for key, tensor in twin.state_dict().items()}


def test_former_names_of_attention_weights_are_read() -> None:
    ours = random_network(VARIANTS["digits"], 1)
    former = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    renamed = {}
    for key, tensor in weights_to_diffusers(ours.state_dict()).items():
        for now, then in former.items():
            key = key.replace(now, then)
        renamed[key] = tensor
    assert any(".proj_attn." in key for key in renamed)
    weights = weights_from_diffusers(current_names(renamed))
    assert all(torch.equal(weights[key], value) for key, value in ours.state_dict().items())


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("center_input_sample", True),
        ("time_embedding_type", "fourier"),
        ("mid_block_type", None),
        ("class_embed_type", "timestep"),
        ("act_fn", "gelu"),
        ("down_block_types", ("SkipDownBlock2D", "ResnetDownsampleBlock2D")),
        ("sample_size", (8, 16)),
        ("sample_size", 0),
        ("sample_size", 10**9),
        ("block_out_channels", (0, 32)),
        ("block_out_channels", (16.0, 32)),
        ("resnet_time_scale_shift", "spatial"),
        ("block_out_channels", (16, 24)),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(setting: str, value: object) -> None:
    foreign = diffusers_config(VARIANTS["digits"], 1) | {setting: value}
    with pytest.raises(UsageError, match=setting):
        config_from_diffusers(foreign)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"block_out_channels": "wide"}, "no counterpart here"),
        ({"block_out_channels": []}, "no counterpart here|no configuration"),
        ({"down_block_types": None}, "no counterpart here"),
        ({"num_class_embeds": "ten"}, "no counterpart here"),
        ({"num_class_embeds": 10**12}, "num_classes = 1000000000000: Input should be less than"),
        ({"layers_per_block": 10**9}, "residual_blocks = 1000000000: Input should be less than"),
        ({"block_out_channels": [10**6, 2 * 10**6]}, "base_channels = 1000000: Input should be less than"),
    ],
)
def test_a_damaged_configuration_is_one_message(damage: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        config_from_diffusers(diffusers_config(VARIANTS["digits"], 1) | damage)


def test_a_configuration_that_lacks_a_setting_names_it() -> None:
    foreign = diffusers_config(VARIANTS["digits"], 1)
    del foreign["up_block_types"]
    with pytest.raises(UsageError, match="it has no 'up_block_types'"):
        config_from_diffusers(foreign)
