"""The denoiser: initialization, time, predictions, labels, guidance, weights."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.prediction import velocity_from_output
from progdistill.errors import LostInvariantError, UsageError
from progdistill.models.config import ARCHITECTURES, DenoiserConfig, UNetConfig
from progdistill.models.denoiser import build_denoiser, save_weights, student_of, weights_of
from progdistill.models.load import denoiser_from_file
from tests.models.conftest import MakeDenoiser

DIGITS = DenoiserConfig(network=ARCHITECTURES["digits"], prediction=PredictionType.V)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    """z, t and labels of four samples; both ends of time among them."""
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(4, 1, 8, 8, generator=generator)
    return z, torch.tensor([0.0, 0.25, 0.75, 1.0]), torch.tensor([0, 3, 9, 9])


def test_initial_weights_are_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(0)
    first = weights_of(build_denoiser(DIGITS, seed=5))
    torch.manual_seed(1)
    second, other = weights_of(build_denoiser(DIGITS, seed=5)), weights_of(build_denoiser(DIGITS, seed=6))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["network.conv_in.weight"], other["network.conv_in.weight"])


def test_building_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    build_denoiser(DIGITS, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_untrained_network_predicts_zero() -> None:
    z, t, labels = batch()
    assert build_denoiser(DIGITS, seed=0)(z, t, {"label": labels}).abs().max() == 0


def test_every_weight_receives_a_gradient(make_denoiser: MakeDenoiser) -> None:
    denoiser = make_denoiser(guidance_input=True)
    z, t, labels = batch()
    denoiser(z, t, {"label": labels}, torch.ones(4)).square().sum().backward()
    idle = [name for name, weight in denoiser.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert idle == []


@pytest.mark.parametrize("prediction", PredictionType)
def test_the_velocity_is_read_from_the_output(make_denoiser: MakeDenoiser, prediction: PredictionType) -> None:
    denoiser = make_denoiser(prediction)
    z, t, labels = batch()
    with torch.no_grad():
        output, velocity = denoiser(z, t, {"label": labels}), denoiser.velocity(z, t, {"label": labels})
    assert output.shape[1] == (2 if prediction is PredictionType.X_EPS else 1)
    assert torch.equal(velocity, velocity_from_output(output, z, t, prediction))
    assert velocity.isfinite().all()


def test_the_network_reads_8192_t_minus_1(make_denoiser: MakeDenoiser) -> None:
    denoiser = make_denoiser()
    read = denoiser.boundary.time(torch.tensor([1 / 8192, 0.5, 1.0], dtype=torch.float64))
    assert read.tolist() == [0.0, 4095.0, 8191.0]
    assert read.dtype == torch.float32


def test_half_precision_networks_answer_in_float32(make_denoiser: MakeDenoiser) -> None:
    denoiser = make_denoiser()
    z, t, labels = batch()
    with torch.no_grad():
        expected = denoiser(z, t, {"label": labels})
        denoiser.network.to(torch.bfloat16)
        found = denoiser(z, t, {"label": labels})
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_a_conditional_model_asks_for_labels(make_denoiser: MakeDenoiser) -> None:
    with pytest.raises(UsageError, match="has 10 classes"):
        make_denoiser().bind()


def test_labels_matter(make_denoiser: MakeDenoiser) -> None:
    denoiser = make_denoiser()
    z, t, labels = batch()
    with torch.no_grad():
        assert not torch.allclose(
            denoiser.bind({"label": labels})(z, t), denoiser.bind({"label": labels.flip(0)})(z, t)
        )


def test_classifier_free_guidance_extrapolates_from_no_class(make_denoiser: MakeDenoiser) -> None:
    denoiser = make_denoiser(label_dropout=True)
    z, t, labels = batch()
    with torch.no_grad():
        informed = denoiser.velocity(z, t, {"label": labels})
        uninformed = denoiser.velocity(z, t, {"label": torch.full((4,), 10)})
        guided = denoiser.bind({"label": labels}, w=2.0)(z, t)
        each = denoiser.bind({"label": labels}, w=torch.tensor([0.0, 1.0, 2.0, 3.0]))(z, t)
    torch.testing.assert_close(guided, 3 * informed - 2 * uninformed, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(each[0], informed[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(each[2], guided[2], rtol=1e-4, atol=1e-5)


def test_guidance_without_means_is_refused(make_denoiser: MakeDenoiser) -> None:
    with pytest.raises(UsageError, match="cannot be guided"):
        make_denoiser().bind({"label": batch()[2]}, w=1.0)


def test_a_guidance_input_is_told_the_weight(make_denoiser: MakeDenoiser) -> None:
    denoiser = make_denoiser(guidance_input=True)
    z, t, labels = batch()
    with torch.no_grad():
        none, zero = denoiser.bind({"label": labels})(z, t), denoiser.bind({"label": labels}, w=0.0)(z, t)
        one = denoiser.bind({"label": labels}, w=1.0)(z, t)
    assert torch.equal(none, zero)
    assert not torch.allclose(zero, one)


def test_without_guidance_input_there_is_no_trace_of_it() -> None:
    guided = DIGITS.model_copy(update={"network": DIGITS.network.model_copy(update={"guidance_input": True})})
    plain, with_input = weights_of(build_denoiser(DIGITS, 0)), weights_of(build_denoiser(guided, 0))
    assert with_input.keys() - plain.keys() == {"network.time_embedding.guidance_proj.weight"}


def test_a_guided_student_starts_as_its_unguided_teacher(make_denoiser: MakeDenoiser) -> None:
    teacher = make_denoiser(label_dropout=True)
    network = teacher.config.network.model_copy(update={"guidance_input": True})
    student = student_of(teacher, teacher.config.model_copy(update={"network": network}))
    z, t, labels = batch()
    with torch.no_grad():
        assert torch.equal(
            student.velocity(z, t, {"label": labels}, torch.full((4,), 3.0)), teacher.velocity(z, t, {"label": labels})
        )


def test_a_student_of_one_prediction_starts_as_its_teacher(make_denoiser: MakeDenoiser) -> None:
    teacher = make_denoiser(PredictionType.EPS)
    student = student_of(teacher, DIGITS)
    assert all(torch.equal(weights_of(student)[name], tensor) for name, tensor in weights_of(teacher).items())


def test_a_student_of_an_x_eps_teacher_starts_from_its_features(make_denoiser: MakeDenoiser) -> None:
    teacher = make_denoiser(PredictionType.X_EPS)
    student = student_of(teacher, DIGITS)
    before, after = weights_of(teacher), weights_of(student)
    changed = [name for name in after if not torch.equal(before[name], after[name])]
    assert changed == ["network.conv_out.weight", "network.conv_out.bias"]


def test_a_student_of_another_architecture_is_refused(make_denoiser: MakeDenoiser) -> None:
    other = DIGITS.network.model_copy(update={"residual_blocks": 2})
    with pytest.raises(LostInvariantError, match="not its teacher's"):
        student_of(make_denoiser(), DIGITS.model_copy(update={"network": other}))


def test_weights_survive_their_file_and_equal_weights_give_equal_bytes(
    make_denoiser: MakeDenoiser, tmp_path: Path
) -> None:
    denoiser = make_denoiser()
    save_weights(weights_of(denoiser), tmp_path / "a.safetensors")
    save_weights(dict(reversed(weights_of(denoiser).items())), tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    loaded = weights_of(denoiser_from_file(denoiser.config, tmp_path / "a.safetensors"))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights_of(denoiser).items())


def test_weights_of_another_architecture_are_refused(make_denoiser: MakeDenoiser, tmp_path: Path) -> None:
    save_weights(weights_of(make_denoiser()), tmp_path / "weights.safetensors")
    with pytest.raises(LostInvariantError, match="missing"):
        denoiser_from_file(make_denoiser(residual_blocks=2).config, tmp_path / "weights.safetensors")
    with pytest.raises(LostInvariantError, match="has shape"):
        denoiser_from_file(make_denoiser(num_classes=5).config, tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"image_size": 9}, "cannot be halved"),
        ({"attention_resolutions": (5,)}, "not among the resolutions"),
        ({"groups": 5}, "do not divide into 5 groups"),
        ({"head_channels": 12}, "heads of 12"),
        ({"num_classes": 0, "label_dropout": True}, "label_dropout needs num_classes > 0"),
        ({"num_classes": 0, "guidance_input": True}, "guidance_input needs num_classes > 0"),
        ({"channel_multipliers": (2, 4)}, "must start with 1, not 2"),
        ({"base_channels": 9, "groups": 3}, "is odd"),
    ],
)
def test_networks_that_cannot_be_built_are_refused(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        UNetConfig.model_validate(ARCHITECTURES["digits"].model_dump() | change)
