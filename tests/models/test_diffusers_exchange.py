"""Models exported to diffusers sample the same images there; imported models predict as they did."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from progdistill.diffusion.grid import AngleGrid, FlowGrid
from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.noise_schedules import DiscreteSchedule
from progdistill.diffusion.samplers import ddim
from progdistill.diffusion.schedule import time_of_log_snr
from progdistill.errors import UsageError
from progdistill.models.denoiser import Denoiser, weights_of
from progdistill.models.diffusers_export import cosine_betas, export_diffusers
from progdistill.models.diffusers_import import read_diffusers
from progdistill.models.load import denoiser_from_file
from tests.models.conftest import MakeDenoiser

LINEAR = DiscreteSchedule(kind="linear")


def stock_samples(folder: Path, z: torch.Tensor, steps: int, labels: torch.Tensor | None) -> torch.Tensor:
    """What diffusers alone draws from z with the models in `folder`, before it clamps to [−1, 1]."""
    unet = diffusers.UNet2DModel.from_pretrained(folder / "unet")
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(steps)
    with torch.no_grad():
        for t in scheduler.timesteps:
            z = scheduler.step(unet(z, t, class_labels=labels).sample, t, z).prev_sample
    return z


def our_samples(
    denoiser: Denoiser, z: torch.Tensor, steps: int, labels: torch.Tensor | None, w: float | None = None
) -> torch.Tensor:
    """DDIM without clipping."""
    with torch.no_grad():
        return ddim(denoiser.bind(None if labels is None else {"label": labels}, w), z, AngleGrid().times(steps))


@pytest.mark.parametrize(
    ("prediction", "schedule", "num_classes", "steps"),
    [
        (PredictionType.V, None, 10, 64),
        (PredictionType.V, None, 0, 1),
        (PredictionType.V, LINEAR, 0, 4),
        (PredictionType.X, None, 0, 64),
        (PredictionType.X, None, 10, 1),
        (PredictionType.X, LINEAR, 10, 8),
    ],
)
def test_stock_diffusers_draws_our_images(
    make_denoiser: MakeDenoiser,
    tmp_path: Path,
    prediction: PredictionType,
    schedule: DiscreteSchedule | None,
    num_classes: int,
    steps: int,
) -> None:
    denoiser = make_denoiser(prediction, schedule, num_classes=num_classes)
    assert export_diffusers(denoiser, tmp_path) <= 1e-3
    z = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    labels = torch.tensor([4, 7]) if num_classes else None
    ours, stock = our_samples(denoiser, z, steps, labels), stock_samples(tmp_path, z, steps, labels)
    assert ours.std() > 0.05
    assert (ours - stock).abs().max() <= 1e-3


def test_an_unconditional_export_is_a_pipeline(make_denoiser: MakeDenoiser, tmp_path: Path) -> None:
    denoiser = make_denoiser(num_classes=0)
    export_diffusers(denoiser, tmp_path)
    pipeline = diffusers.DDIMPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        batch_size=2, num_inference_steps=4, generator=torch.Generator().manual_seed(3), output_type="np"
    ).images
    z = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    expected = (our_samples(denoiser, z, 4, None) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(torch.from_numpy(images), expected, rtol=0, atol=1e-4)


def test_the_guidance_scale_is_built_into_the_export(make_denoiser: MakeDenoiser, tmp_path: Path) -> None:
    denoiser = make_denoiser(guidance_input=True, label_dropout=True)
    export_diffusers(denoiser, tmp_path, guidance_scale=2.5)
    z, labels = torch.randn(2, 1, 8, 8), torch.tensor([4, 7])
    stock = stock_samples(tmp_path, z, 4, labels)
    torch.testing.assert_close(our_samples(denoiser, z, 4, labels, w=1.5), stock, rtol=0, atol=1e-4)
    assert (our_samples(denoiser, z, 4, labels) - stock).abs().max() > 1e-3


def test_the_betas_give_the_cosine_schedule_to_its_last_step() -> None:
    betas = torch.tensor(cosine_betas(), dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - betas, 0)
    expected = torch.cos(torch.arange(1, 8193, dtype=torch.float64) / 8192 * torch.pi / 2) ** 2
    torch.testing.assert_close(alpha_bar, expected, rtol=1e-9, atol=1e-15)
    assert betas[-1] == 1


@pytest.mark.parametrize(
    ("prediction", "reason"), [(PredictionType.EPS, "α = 0"), (PredictionType.X_EPS, "one of them")]
)
def test_predictions_that_stock_schedulers_cannot_use_are_refused(
    make_denoiser: MakeDenoiser, tmp_path: Path, prediction: PredictionType, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        export_diffusers(make_denoiser(prediction), tmp_path)
    assert not list(tmp_path.iterdir())


def test_our_own_export_comes_back_as_it_was(make_denoiser: MakeDenoiser, tmp_path: Path) -> None:
    denoiser = make_denoiser(PredictionType.X)
    export_diffusers(denoiser, tmp_path)
    model = read_diffusers(tmp_path)
    assert model.config.foreign_schedule is None
    assert model.config.prediction is PredictionType.X
    assert all(torch.equal(model.weights[name], tensor) for name, tensor in weights_of(denoiser).items())


def foreign_pipeline(folder: Path, prediction_type: str = "epsilon", **scheduler: Any) -> Any:
    """A pipeline as diffusers' own training example makes them, small, with random weights."""
    torch.manual_seed(4)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    ).eval()
    noise = diffusers.DDPMScheduler(prediction_type=prediction_type, **scheduler)
    diffusers.DDPMPipeline(unet=unet, scheduler=noise).save_pretrained(folder)
    return unet


def denoiser_of(folder: Path, **options: Any) -> Denoiser:
    """The imported model, ready to be asked."""
    model = read_diffusers(folder, **options)
    path = folder / "imported.safetensors"
    save_file(model.weights, path)
    return denoiser_from_file(model.config, path).eval()


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize(
    ("prediction_type", "prediction"),
    [("epsilon", PredictionType.EPS), ("v_prediction", PredictionType.V), ("sample", PredictionType.X)],
)
def test_an_imported_model_predicts_as_it_did(
    tmp_path: Path, beta_schedule: str, prediction_type: str, prediction: PredictionType
) -> None:
    unet = foreign_pipeline(tmp_path, prediction_type, beta_schedule=beta_schedule)
    denoiser = denoiser_of(tmp_path)
    assert denoiser.config.prediction is prediction
    indices = torch.tensor([0, 1, 250, 500, 999])
    assert denoiser.config.foreign_schedule is not None
    levels = torch.tensor(denoiser.config.foreign_schedule.log_snr(), dtype=torch.float64)[indices]
    z = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        expected, found = unet(z, indices).sample, denoiser(z, time_of_log_snr(levels))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_flat_folders_and_separate_schedulers_are_read(tmp_path: Path) -> None:
    foreign_pipeline(tmp_path / "pipeline")
    flat, alone = tmp_path / "flat", tmp_path / "alone"
    shutil.copytree(tmp_path / "pipeline" / "unet", flat)
    shutil.copytree(flat, alone)
    scheduler = tmp_path / "pipeline" / "scheduler" / "scheduler_config.json"
    shutil.copy(scheduler, flat)
    expected = read_diffusers(tmp_path / "pipeline").config
    assert read_diffusers(flat).config == expected
    assert read_diffusers(alone, scheduler=scheduler).config == expected
    with pytest.raises(UsageError, match="--scheduler FILE"):
        read_diffusers(alone)


def test_pickled_weights_need_consent_and_never_run_code(tmp_path: Path) -> None:
    unet = foreign_pipeline(tmp_path)
    expected = read_diffusers(tmp_path)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    pickled = tmp_path / "unet" / "diffusion_pytorch_model.bin"
    torch.save(unet.state_dict(), pickled)
    with pytest.raises(UsageError, match="--allow-pickle"):
        read_diffusers(tmp_path)
    found = read_diffusers(tmp_path, allow_pickle=True)
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in expected.weights.items())
    torch.save({"conv_in.weight": Path("arbitrary object")}, pickled)
    with pytest.raises(UsageError, match="cannot be unpickled as plain tensors"):
        read_diffusers(tmp_path, allow_pickle=True)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_the_state_dict_of_a_trainers_checkpoint_is_taken(tmp_path: Path, prefix: str) -> None:
    """As training scripts save it, from a network in DataParallel or compiled."""
    unet = foreign_pipeline(tmp_path)
    expected = read_diffusers(tmp_path)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    pickled = tmp_path / "unet" / "diffusion_pytorch_model.bin"
    weights = {prefix + name: tensor for name, tensor in unet.state_dict().items()}
    torch.save({"state_dict": weights, "optimizer": {"state": {}, "param_groups": []}, "epoch": 3}, pickled)
    found = read_diffusers(tmp_path, allow_pickle=True)
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in expected.weights.items())
    for content, complaint in [
        ({"state_dict": weights, "ema": weights}, "a dictionary of state_dict, ema, with 2 state dicts"),
        ({"epoch": 3}, "a dictionary of epoch, with no state dicts"),
        ([1], "holds a list, no state dict"),
    ]:
        torch.save(content, pickled)
        with pytest.raises(UsageError, match=complaint):
            read_diffusers(tmp_path, allow_pickle=True)


def test_weights_of_another_network_are_named_as_their_file_names_them(tmp_path: Path) -> None:
    foreign_pipeline(tmp_path)
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights = {f"net.{name}": tensor for name, tensor in load_file(path).items()}
    save_file(weights, path)
    with pytest.raises(UsageError, match=r"missing \(conv_in\.bias, .* unexpected \(net\.conv_in\.bias"):
        read_diffusers(tmp_path)


@pytest.mark.parametrize(
    "part",
    [{"vqvae": ["diffusers", "VQModel"]}, {"vae": ["diffusers", "AutoencoderKL"], "safety_checker": [None, None]}],
)
def test_a_latent_pipelines_network_is_no_model_of_images(tmp_path: Path, part: dict[str, object]) -> None:
    foreign_pipeline(tmp_path)
    read_diffusers(tmp_path / "unet")
    edit(tmp_path / "model_index.json", _class_name="LDMPipeline", **part)
    for folder in (tmp_path, tmp_path / "unet"):
        with pytest.raises(
            UsageError, match=r"describes a LDMPipeline with (vqvae \(VQModel\)|vae \(AutoencoderKL\));"
        ):
            read_diffusers(folder)


def test_the_image_size_is_a_square_or_is_asked_for(tmp_path: Path) -> None:
    foreign_pipeline(tmp_path)
    expected = read_diffusers(tmp_path).config
    edit(tmp_path / "unet" / "config.json", sample_size=[8, 8])
    assert read_diffusers(tmp_path).config == expected
    edit(tmp_path / "unet" / "config.json", sample_size=None)
    assert read_diffusers(tmp_path, image_size=8).config == expected
    with pytest.raises(UsageError, match="does not state its sample_size: give it with --image-size PIXELS"):
        read_diffusers(tmp_path)


def test_a_network_of_any_size_is_compared_with_its_weights_without_being_built(tmp_path: Path) -> None:
    foreign_pipeline(tmp_path)
    edit(tmp_path / "unet" / "config.json", block_out_channels=[2**15, 2**16])
    with pytest.raises(UsageError, match="does not fit .*: conv_in.bias has shape"):
        read_diffusers(tmp_path)


def edit(path: Path, **changes: Any) -> None:
    """Change some settings of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("file", "changes", "complaint"),
    [
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "only a UNet2DModel"),
        ("unet/config.json", {"out_channels": 2}, "learned variance"),
        ("unet/config.json", {"layers_per_block": 2}, "does not fit"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "sigmoid"}, "'sigmoid' is not one of"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "prediction_type 'flow' is not one of"),
        ("scheduler/scheduler_config.json", {"trained_betas": [0.1, 0.2]}, "trained_betas other than"),
        ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ("scheduler/scheduler_config.json", {"beta_end": 2.0}, "does not describe a schedule"),
        ("scheduler/scheduler_config.json", {"_class_name": "TheirScheduler"}, "is for TheirScheduler"),
    ],
)
def test_what_cannot_be_imported_is_refused_by_name(
    tmp_path: Path, file: str, changes: dict[str, Any], complaint: str
) -> None:
    foreign_pipeline(tmp_path)
    edit(tmp_path / file, **changes)
    with pytest.raises(UsageError, match=complaint):
        read_diffusers(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "unknown name"])
def test_damaged_weights_are_refused(tmp_path: Path, damage: str) -> None:
    foreign_pipeline(tmp_path)
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        weights = load_file(path)
        weights["down_blocks.1.attentions.0.to_x.weight"] = weights.pop("down_blocks.1.attentions.0.to_k.weight")
        save_file(weights, path)
    with pytest.raises(UsageError, match=r"is damaged|does not fit"):
        read_diffusers(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "1" * 10_000, "\x00"])
@pytest.mark.parametrize("file", ["unet/config.json", "scheduler/scheduler_config.json", "model_index.json"])
def test_a_file_that_is_no_json_object_is_one_message(tmp_path: Path, file: str, text: str) -> None:
    foreign_pipeline(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(UsageError, match="is not"):
        read_diffusers(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"config\.json does not exist"):
        read_diffusers(tmp_path)


def test_a_student_of_another_grid_is_not_exported_with_a_scheduler_of_even_angles(
    make_denoiser: MakeDenoiser, tmp_path: Path
) -> None:
    denoiser = make_denoiser()
    denoiser.config = denoiser.config.model_copy(update={"grid": FlowGrid(shift=3)})
    with pytest.raises(UsageError, match="even steps of the angle, not even steps of the flow"):
        export_diffusers(denoiser, tmp_path)
