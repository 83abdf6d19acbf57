"""LoRA: an adapter in training answers as it does when merged into its base, and its base stays as it is."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from progdistill.diffusion.names import PredictionType
from progdistill.errors import LostInvariantError, UsageError
from progdistill.models.adapters import adapter_parameters, adapter_shapes, merged, share_base, target_layers
from progdistill.models.config import DenoiserConfig, LoraConfig
from progdistill.models.denoiser import Denoiser, weights_of
from tests.models.conftest import MakeDenoiser
from tests.models.pipelines import PIPELINES
from tests.models.test_pipelines import imported, some_conditioning

LORA = LoraConfig(base="b" * 64, rank=2, alpha=4.0)
Z = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(2))
T = torch.tensor([1.0, 0.5, 0.1])
LABELS = {"label": torch.arange(3)}


def with_lora(denoiser: Denoiser, lora: LoraConfig = LORA) -> DenoiserConfig:
    return denoiser.config.model_copy(update={"lora": lora})


def moved(student: Denoiser) -> dict[str, Tensor]:
    """Move the student's adapter off its start, and return what a checkpoint of it holds."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in student.own_weights().values():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return {name: tensor.clone() for name, tensor in student.own_weights().items()}


def test_a_new_adapter_changes_nothing(make_denoiser: MakeDenoiser) -> None:
    wanted = make_denoiser()(Z, T, LABELS)
    base = make_denoiser()
    teacher, student = share_base(base, base.config, with_lora(base), None, seed=0)
    assert torch.equal(student(Z, T, LABELS), wanted) and torch.equal(teacher(Z, T, LABELS), wanted)
    again = make_denoiser()
    _, other = share_base(again, again.config, with_lora(again), None, seed=0)
    assert all(torch.equal(other.own_weights()[name], tensor) for name, tensor in student.own_weights().items())


def test_gradients_reach_the_students_adapter_alone(make_denoiser: MakeDenoiser) -> None:
    base = make_denoiser()
    teacher, student = share_base(base, base.config, with_lora(base), None, seed=0)
    weights = moved(student)
    base = make_denoiser()
    teacher, student = share_base(base, with_lora(base), with_lora(base), weights, seed=0)
    before = teacher(Z, T, LABELS)
    loss = student(Z, T, LABELS).square().mean()
    teacher(Z, T, LABELS)
    loss.backward()
    trained = {student.own_name(name) for name, p in student.named_parameters() if p.grad is not None}
    assert trained == weights.keys() == {student.own_name(n) for n, p in student.named_parameters() if p.requires_grad}
    moved(student)
    assert torch.equal(teacher(Z, T, LABELS), before) and not torch.equal(student(Z, T, LABELS), before)


@pytest.mark.parametrize("targets", [(), ("to_qkv", "conv1", "time_emb_proj"), ("conv_out",)])
def test_merged_it_answers_as_in_training(targets: tuple[str, ...], make_denoiser: MakeDenoiser) -> None:
    base, lora = make_denoiser(attention_resolutions=(4,)), LORA.model_copy(update={"targets": targets})
    _, student = share_base(base, base.config, with_lora(base, lora), None, seed=0)
    weights = moved(student)
    whole = merged(make_denoiser(attention_resolutions=(4,)), student.config, weights)
    torch.testing.assert_close(whole(Z, T, LABELS), student(Z, T, LABELS), rtol=1e-4, atol=1e-5)
    assert weights_of(whole).keys() == weights_of(make_denoiser(attention_resolutions=(4,))).keys()
    assert sum(tensor.numel() for tensor in weights.values()) == adapter_parameters(base.config, 2, targets)


def test_without_targets_every_layer_of_the_blocks_has_an_adapter(make_denoiser: MakeDenoiser) -> None:
    denoiser = make_denoiser(attention_resolutions=(4,))
    names = set(target_layers(denoiser, ()))
    assert "mid_block.attentions.0.to_qkv" in names and "down_blocks.0.resnets.0.conv1" in names
    assert "conv_in" not in names and "time_embedding.linear_1" not in names


def test_the_base_may_be_in_low_precision(make_denoiser: MakeDenoiser) -> None:
    base = make_denoiser()
    base.network.to(torch.bfloat16)
    teacher, student = share_base(base, base.config, with_lora(base), None, seed=0)
    moved(student)
    assert all(tensor.dtype == torch.float32 for tensor in student.own_weights().values())
    wanted = make_denoiser()(Z, T, LABELS)
    assert teacher(Z, T, LABELS).dtype == torch.float32 and (teacher(Z, T, LABELS) - wanted).abs().max() < 0.1
    student(Z, T, LABELS).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters() if p.requires_grad)


def test_a_target_that_is_not_there_is_named_with_what_is(make_denoiser: MakeDenoiser) -> None:
    with pytest.raises(UsageError, match=r"no linear layer or convolution 'to_k'; last parts .*conv1, conv2"):
        target_layers(make_denoiser(), ("to_k",))


def test_an_adapter_of_another_network_is_refused(make_denoiser: MakeDenoiser) -> None:
    shapes = adapter_shapes(make_denoiser(), 2, ())
    weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
    other = make_denoiser(PredictionType.V, base_channels=8, condition_channels=64)
    with pytest.raises(LostInvariantError, match="of the adapter has shape"):
        merged(other, with_lora(other), weights)
    weights.popitem()
    with pytest.raises(LostInvariantError, match="differs in 1"):
        merged(make_denoiser(), with_lora(make_denoiser()), weights)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
@pytest.mark.parametrize("family", PIPELINES)
def test_networks_of_diffusers_have_adapters_too(family: str, tmp_path: Path) -> None:
    PIPELINES[family](tmp_path)
    size = 16 if family == "flux" else None
    base = imported(tmp_path, image_size=size)
    teacher, student = share_base(base, base.config, with_lora(base), None, seed=0)
    weights = moved(student)
    conditioning = some_conditioning(base.config.network, rows=3)
    z = torch.randn(3, *base.config.network.sample_shape, generator=torch.Generator().manual_seed(2))
    answer = student(z, T, conditioning)
    answer.square().mean().backward()
    assert all(p.grad is not None for p in student.parameters() if p.requires_grad)
    with torch.no_grad():
        whole = merged(imported(tmp_path, image_size=size), student.config, weights)
        torch.testing.assert_close(whole(z, T, conditioning), answer, rtol=1e-3, atol=1e-4)
        alone = imported(tmp_path, image_size=size)
        torch.testing.assert_close(teacher(z, T, conditioning), alone(z, T, conditioning), rtol=1e-5, atol=1e-5)
        assert (teacher(z, T, conditioning) - answer).abs().max() > 1e-3
