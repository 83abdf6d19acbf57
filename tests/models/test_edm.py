"""Networks of EDM and EDM2: as published, read from their tensors, and distilled like others."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from progdistill.diffusion.grid import KarrasGrid
from progdistill.diffusion.names import LossWeight, PredictionType, SamplerName
from progdistill.diffusion.noise_schedules import EDMSchedule
from progdistill.errors import UsageError
from progdistill.evaluation.sampling import generate
from progdistill.models.config import DenoiserConfig, EDMConfig
from progdistill.models.denoiser import Denoiser, build_denoiser, student_of, unallocated
from progdistill.models.edm_import import read_edm
from progdistill.models.load import load_denoiser
from progdistill.models.networks.edm import resampled
from progdistill.models.networks.edm2 import MPFourier, MPLayer, mp_cat, mp_silu, mp_sum, normalized
from progdistill.registry.resolve import resolve_reference
from progdistill.store.base import Store
from progdistill.training.objective import DistillationObjective
from progdistill.training.random import BatchRandom
from tests.models.command_line import run

PUBLISHED = {
    "ddpmpp": EDMConfig(
        architecture="ddpmpp",
        image_channels=3,
        image_size=32,
        base_channels=128,
        channel_multipliers=(2, 2, 2),
        residual_blocks=4,
        attention_resolutions=(16,),
        num_classes=10,
        parameters=1,
    ),
    "adm": EDMConfig(
        architecture="adm",
        image_channels=3,
        image_size=64,
        base_channels=192,
        channel_multipliers=(1, 2, 3, 4),
        residual_blocks=3,
        attention_resolutions=(32, 16, 8),
        num_classes=1000,
        parameters=1,
    ),
    "edm2": EDMConfig(
        architecture="edm2",
        image_channels=4,
        image_size=64,
        base_channels=192,
        channel_multipliers=(1, 2, 3, 4),
        residual_blocks=3,
        attention_resolutions=(16, 8),
        num_classes=1000,
        parameters=1,
    ),
}
"""CIFAR-10 and ImageNet-64 of EDM; EDM2-S."""

SMALL = {
    name: EDMConfig(
        architecture=name,
        image_channels=2,
        image_size=8,
        base_channels=64 if name in ("adm", "edm2") else 16,
        channel_multipliers=(1, 2),
        residual_blocks=1,
        attention_resolutions=(4,),
        num_classes=3,
        label_dropout=True,
        parameters=1,
    )
    for name in ("ddpmpp", "ncsnpp", "adm", "edm2")
}
every_small = pytest.mark.parametrize("network", SMALL.values(), ids=SMALL)
Z = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
T, LABELS = torch.tensor([0.1, 0.4, 0.7, 0.95]), torch.tensor([0, 1, 2, 3])


def config_of(network: EDMConfig) -> DenoiserConfig:
    return DenoiserConfig(
        network=network, prediction=PredictionType.V, foreign_schedule=EDMSchedule(), grid=KarrasGrid()
    )


def made(network: EDMConfig) -> Denoiser:
    """A denoiser whose every layer does something."""
    denoiser, source = build_denoiser(config_of(network), seed=0), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=source))
    return denoiser.eval()


def saved(denoiser: Denoiser, prefix: str, path: Path) -> Path:
    """The network's tensors with their published names, beside those that sampling does not use."""
    tensors = {f"{prefix}.{name}": tensor.contiguous() for name, tensor in denoiser.network.state_dict().items()}
    unused = {f"{prefix}.enc.4x4_down.conv0.resample_filter": torch.ones(1, 1, 2, 2), "logvar_linear.weight": Z[0, 0]}
    save_file(tensors | unused | {f"{prefix}.map_augment.weight": torch.ones(2, 9)}, path)
    return path


@pytest.mark.parametrize(("name", "millions"), [("ddpmpp", 55.7), ("adm", 295.9), ("edm2", 280.2)])
def test_published_configurations_have_the_published_number_of_parameters(name: str, millions: float) -> None:
    network = unallocated(config_of(PUBLISHED[name])).network
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


@every_small
def test_a_network_is_recognized_by_its_tensors(network: EDMConfig, tmp_path: Path) -> None:
    denoiser = made(network)
    config, weights, _ = read_edm(saved(denoiser, "model", tmp_path / "network.safetensors"), label_dropout=True)
    count = sum(parameter.numel() for parameter in denoiser.parameters())
    buffers = sum(buffer.numel() for buffer in denoiser.network.buffers())
    assert config == config_of(network.model_copy(update={"parameters": count + buffers}))
    twin = unallocated(config)
    twin.load_state_dict(weights, assign=True)
    with torch.no_grad():
        assert torch.equal(twin(Z, T, {"label": LABELS}), denoiser(Z, T, {"label": LABELS}))


@every_small
def test_the_velocity_is_that_of_the_preconditioned_denoiser(network: EDMConfig) -> None:
    """D = c_skip·y + c_out·F(c_in·y, ln(s)/4) at y = x + s·ε (Karras et al. 2022, eq. 7)."""
    denoiser = made(network)
    angle = (T * math.pi / 2)[:, None, None, None]
    y, s, d = Z / angle.cos(), angle.tan(), 0.5
    with torch.no_grad():
        raw = denoiser.network(y / (s**2 + d**2).sqrt(), s.flatten().log() / 4, LABELS)
        velocity = denoiser.velocity(Z, T, {"label": LABELS})
    x = d**2 / (s**2 + d**2) * y + s * d / (s**2 + d**2).sqrt() * raw
    torch.testing.assert_close(velocity, angle.cos() * (y - x) / s - angle.sin() * x, rtol=1e-4, atol=1e-4)


@every_small
def test_no_class_is_a_label_of_zeros_and_classes_differ(network: EDMConfig) -> None:
    denoiser = made(network)
    with torch.no_grad():
        answers = [denoiser(Z, T, {"label": torch.full((4,), label)}) for label in range(4)]
    assert all((answers[0] - other).abs().max() > 1e-3 for other in answers[1:])
    guided = denoiser.bind({"label": LABELS}, w=1.0)(Z, T)
    assert guided.isfinite().all()


@every_small
def test_a_student_distills_on_its_teachers_grid(network: EDMConfig) -> None:
    teacher = made(network)
    student = student_of(teacher, teacher.config)
    objective = DistillationObjective(teacher, 2, LossWeight.SNR_PLUS_ONE, grid=KarrasGrid(points=16), teacher_steps=4)
    loss = objective(student, student, Z.clamp(-1, 1), {"label": LABELS}, BatchRandom(torch.Generator(), 4))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


def test_files_of_other_kinds_are_read_or_refused(tmp_path: Path) -> None:
    denoiser = made(SMALL["edm2"])
    state = denoiser.network.state_dict()
    np.savez(tmp_path / "network.npz", **{f"unet.{name}": tensor.numpy() for name, tensor in state.items()})
    torch.save(state, tmp_path / "network.pt")
    torch.save(denoiser.network, tmp_path / "program.pt")
    assert read_edm(tmp_path / "network.npz")[0].network.image_size == 8
    assert read_edm(tmp_path / "network.pt", allow_pickle=True)[0] == read_edm(tmp_path / "network.npz")[0]
    with pytest.raises(UsageError, match="--allow-pickle"):
        read_edm(tmp_path / "network.pt")
    with pytest.raises(UsageError, match="plain tensors"):
        read_edm(tmp_path / "program.pt", allow_pickle=True)
    with pytest.raises(UsageError, match="pickle of a program"):
        read_edm(tmp_path / "edm-cifar10.pkl", allow_pickle=True)
    (tmp_path / "damaged.safetensors").write_bytes(b"1234")
    with pytest.raises(UsageError, match="damaged"):
        read_edm(tmp_path / "damaged.safetensors")


@pytest.mark.parametrize("missing", ["enc.8x8_conv.weight", "dec.4x4_in0.conv_res0.weight"])
def test_tensors_of_no_such_network_are_refused(missing: str, tmp_path: Path) -> None:
    tensors = made(SMALL["edm2"]).network.state_dict()
    save_file({name: tensor for name, tensor in tensors.items() if name != missing}, tmp_path / "n.safetensors")
    with pytest.raises(UsageError, match="is not"):
        read_edm(tmp_path / "n.safetensors")


def gaussian(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_layers_of_edm2_keep_the_magnitude_of_their_inputs() -> None:
    """Each against its formula in a few lines, and that unit inputs give unit outputs (section 2.2 of the paper)."""
    x, y = gaussian(512, 64), gaussian(512, 64).roll(1, 0)
    torch.testing.assert_close(mp_silu(x), x * torch.sigmoid(x) / 0.596)
    assert mp_silu(x).square().mean().sqrt() == pytest.approx(1, abs=0.01)
    torch.testing.assert_close(mp_sum(x, y, 0.3), (0.7 * x + 0.3 * y) / math.sqrt(0.58))
    assert mp_sum(x, y, 0.3).square().mean().sqrt() == pytest.approx(1, abs=0.01)

    a, b = gaussian(64, 16, 4, 4), gaussian(64, 48, 4, 4)
    both = mp_cat(a, b)
    torch.testing.assert_close(both, torch.cat((a * math.sqrt(64 / 32), b * math.sqrt(64 / 96)), 1))
    assert both[:, :16].square().sum() == pytest.approx(float(both[:, 16:].square().sum()), rel=0.05)
    assert both.square().mean().sqrt() == pytest.approx(1, abs=0.01)

    image = gaussian(2, 8, 4, 4)
    image = image.float()
    rms = image.square().mean(1, keepdim=True).sqrt()
    torch.testing.assert_close(normalized(image, (1,)), image / (rms + 1e-4), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kernel", [None, 1, 3])
def test_a_layer_of_edm2_has_weights_of_unit_magnitude_whatever_their_scale(kernel: int | None) -> None:
    layer = MPLayer(32, 48, kernel)
    with torch.no_grad():
        layer.weight.copy_(7 * gaussian(*layer.weight.shape))
    x = gaussian(256, 32, *([4, 4] if kernel else [])).float()
    rows = layer.weight.flatten(1)
    unit = (rows / (rows.norm(dim=1, keepdim=True) + 1e-4 * math.sqrt(rows.shape[1]))).reshape(layer.weight.shape)
    wanted = F.linear(x, unit) if kernel is None else F.conv2d(x, unit, padding=kernel // 2)
    torch.testing.assert_close(layer(x, gain=2.0), 2 * wanted, rtol=1e-5, atol=1e-5)
    if kernel != 3:  # zeros at the edges lose some
        assert layer(x).detach().square().mean().sqrt() == pytest.approx(1, abs=0.1)


def test_fourier_features_have_unit_magnitude() -> None:
    features = MPFourier(4096)
    torch.nn.init.normal_(features.freqs, std=2 * math.pi, generator=torch.Generator().manual_seed(0))
    torch.nn.init.uniform_(features.phases, 0, 2 * math.pi, generator=torch.Generator().manual_seed(1))
    found = features(torch.tensor([-1.5, 0.3]))
    wanted = math.sqrt(2) * torch.cos(torch.tensor([[-1.5], [0.3]]) * features.freqs + features.phases)
    torch.testing.assert_close(found, wanted)
    assert found.square().mean().sqrt() == pytest.approx(1, abs=0.03)


def test_resampling_of_two_taps_averages_and_repeats() -> None:
    image = gaussian(2, 3, 4, 4)
    torch.testing.assert_close(resampled(image, "down", (1, 1)), F.avg_pool2d(image, 2), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(resampled(image, "up", (1, 1)), F.interpolate(image, scale_factor=2.0))
    smooth = resampled(torch.ones(1, 1, 8, 8), "down", (1, 3, 3, 1))
    torch.testing.assert_close(smooth[..., 1:-1, 1:-1], torch.ones(1, 1, 2, 2))


def test_a_file_becomes_an_imported_checkpoint_that_samples(store: Store, tmp_path: Path) -> None:
    denoiser = made(SMALL["ncsnpp"])
    file = saved(denoiser, "model", tmp_path / "network.safetensors")
    assert run(store, "import", file, "--name", "edm", "--label-dropout") == 0
    manifest = resolve_reference(store, "edm")
    config = DenoiserConfig.of(manifest.identity)
    assert config.foreign_schedule == EDMSchedule() and config.grid == KarrasGrid()
    twin = load_denoiser(store, manifest)
    assert torch.equal(twin(Z, T, {"label": LABELS}), denoiser(Z, T, {"label": LABELS}))
    images = torch.cat(list(generate(twin, SamplerName.HEUN, 3, indices=range(2), seed=0, batch_size=2)))
    assert images.shape == (2, 2, 8, 8)
    with pytest.raises(UsageError, match="leave out --scheduler"):
        run(store, "import", file, "--name", "other", "--image-size", 8)
    with pytest.raises(UsageError, match="diffusers has no class for this NCSN"):
        run(store, "export", "edm", "--format", "diffusers", "--out", tmp_path / "out")
    assert run(store, "export", "edm", "--format", "safetensors", "--out", tmp_path / "out") == 0
