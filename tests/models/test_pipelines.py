"""Latent pipelines of every family: imported, they predict as they did; what cannot be taken is refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from progdistill.diffusion.grid import FlowGrid, TrailingGrid
from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.noise_schedules import DiscreteSchedule, FlowSchedule
from progdistill.diffusion.schedule import alpha_sigma, time_of_log_snr
from progdistill.errors import UsageError
from progdistill.models.conditioning import Conditioning
from progdistill.models.config import DiffusersConfig
from progdistill.models.denoiser import Denoiser, build_denoiser, student_of
from progdistill.models.diffusers_import import read_diffusers
from progdistill.models.load import denoiser_from_file
from tests.models.pipelines import LATENT_BETAS, PIPELINES, dit, flux, sd3, sdxl, stable_diffusion

# Of diffusers' own use of numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


def imported(folder: Path, **options: Any) -> Denoiser:
    """The denoiser of a pipeline's folder, as it comes from a store."""
    model = read_diffusers(folder, **options)
    path = folder / "imported.safetensors"
    save_file(model.weights, path)
    return denoiser_from_file(model.config, path).eval()


def some_conditioning(network: DiffusersConfig, rows: int) -> Conditioning:
    """Random columns, as the encoders would give them."""
    random = torch.Generator().manual_seed(5)
    columns: dict[str, torch.Tensor] = {}
    for column in network.columns:
        shape = (rows, *column.shape)
        match column.dtype:
            case "int64":
                columns[column.name] = torch.randint(network.num_classes + 1, shape, generator=random)
            case "bool":
                columns[column.name] = torch.rand(shape, generator=random) < 0.5
            case _:
                columns[column.name] = torch.randn(shape, generator=random)
    return columns


Ask = Callable[[Any, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]], torch.Tensor]


def ask_flux(pipeline: Any, z: torch.Tensor, timestep: torch.Tensor, c: dict[str, torch.Tensor]) -> torch.Tensor:
    """As FluxPipeline does, with guidance scale 1."""
    batch, channels, height, width = z.shape
    tokens = pipeline.transformer(
        hidden_states=pipeline._pack_latents(z, batch, channels, height, width),
        timestep=timestep / 1000,
        guidance=torch.ones(batch),
        pooled_projections=c["pooled_prompt_embeds"],
        encoder_hidden_states=c["prompt_embeds"],
        txt_ids=torch.zeros(c["prompt_embeds"].shape[1], 3),
        img_ids=pipeline._prepare_latent_image_ids(batch, height // 2, width // 2, "cpu", torch.float32),
    ).sample
    return pipeline._unpack_latents(tokens, height * 2, width * 2, pipeline.vae_scale_factor)


STOCK: dict[str, Ask] = {
    "sd": lambda p, z, t, c: p.unet(z, t, encoder_hidden_states=c["prompt_embeds"]).sample,
    "sdxl": lambda p, z, t, c: (
        p.unet(
            z,
            t,
            encoder_hidden_states=c["prompt_embeds"],
            added_cond_kwargs={"text_embeds": c["pooled_prompt_embeds"], "time_ids": c["time_ids"]},
        ).sample
    ),
    "dit": lambda p, z, t, c: p.transformer(z, timestep=t, class_labels=c["label"]).sample[:, :4],
    "sd3": lambda p, z, t, c: (
        p.transformer(
            z, encoder_hidden_states=c["prompt_embeds"], pooled_projections=c["pooled_prompt_embeds"], timestep=t
        ).sample
    ),
    "flux": ask_flux,
    "sana": lambda p, z, t, c: (
        p.transformer(
            z,
            encoder_hidden_states=c["prompt_embeds"],
            encoder_attention_mask=c["prompt_attention_mask"].long(),
            timestep=t,
        ).sample
    ),
}
"""What the stock pipeline of a family does with its network at a time of its scheduler."""


@pytest.mark.parametrize("family", PIPELINES)
def test_an_imported_network_predicts_as_it_did(tmp_path: Path, family: str) -> None:
    """Its v̂ is that of the stock network's ε or flow, at the state that its own family has at our angle."""
    pipeline = PIPELINES[family](tmp_path)
    denoiser = imported(tmp_path, image_size=16 if family == "flux" else None)
    config = denoiser.config
    assert isinstance(config.network, DiffusersConfig)
    size = config.network.image_size
    z = torch.randn(3, 4, size, size, generator=torch.Generator().manual_seed(1))
    conditioning = dict(some_conditioning(config.network, rows=3))
    if isinstance(config.foreign_schedule, FlowSchedule):
        tau = torch.tensor([0.02, 0.5, 1.0])
        t = torch.atan2(tau, 1 - tau) / (torch.pi / 2)
        alpha, sigma = (c[:, None, None, None] for c in alpha_sigma(t))
        with torch.no_grad():
            u = STOCK[family](pipeline, z / (alpha + sigma), 1000 * tau, conditioning)
        state = z / (alpha + sigma)
        x, eps = state - tau[:, None, None, None] * u, state + (1 - tau[:, None, None, None]) * u
    else:
        assert isinstance(config.foreign_schedule, DiscreteSchedule)
        index = torch.tensor([0, 500, 999])
        t = time_of_log_snr(torch.tensor(config.foreign_schedule.log_snr(), dtype=torch.float64)[index])
        alpha, sigma = (c[:, None, None, None] for c in alpha_sigma(t))
        with torch.no_grad():
            eps = STOCK[family](pipeline, z, index, conditioning).double()
        x = (z - sigma * eps) / alpha
    with torch.no_grad():
        found = denoiser.velocity(z, t.float(), conditioning)
    torch.testing.assert_close(found.double(), (alpha * eps - sigma * x).double(), rtol=2e-3, atol=2e-4)


def test_what_is_read_of_each_family(tmp_path: Path) -> None:
    expected: dict[str, tuple[str, float, float, int, int, list[str]]] = {
        "sd": ("eps", 0.18215, 0.0, 2, 77, ["prompt_embeds"]),
        "sdxl": ("eps", 0.13025, 0.0, 2, 77, ["prompt_embeds", "pooled_prompt_embeds", "time_ids"]),
        "dit": ("eps", 0.18215, 0.0, 2, 0, ["label"]),
        "sd3": ("v", 1.5305, 0.0609, 2, 256, ["prompt_embeds", "pooled_prompt_embeds"]),
        "flux": ("v", 0.3611, 0.1159, 2, 512, ["prompt_embeds", "pooled_prompt_embeds"]),
        "sana": ("v", 0.41407, 0.0, 2, 300, ["prompt_embeds", "prompt_attention_mask"]),
    }
    for family, (prediction, *numbers, columns) in expected.items():
        PIPELINES[family](tmp_path / family)
        model = read_diffusers(tmp_path / family)
        assert model.pipeline is not None
        facts = model.pipeline.facts
        assert facts.family == family
        assert [facts.latent_scale, facts.latent_shift, facts.vae_factor, facts.max_prompt_tokens] == numbers
        assert str(model.config.prediction) == prediction
        assert [column.name for column in model.config.network.columns] == columns
        kept = {name.split("/")[0] for name in model.pipeline.files}
        assert {"vae", "scheduler"} <= kept
        assert not kept & {"unet", "transformer"}


def test_the_grid_is_the_schedulers(tmp_path: Path) -> None:
    sd3(tmp_path / "sd3", shift=3.0)
    assert read_diffusers(tmp_path / "sd3").config.grid == FlowGrid(shift=3.0)
    stable_diffusion(tmp_path / "sd")
    betas = DiscreteSchedule(kind="scaled_linear", beta_start=0.00085, beta_end=0.012)
    assert read_diffusers(tmp_path / "sd").config.grid == TrailingGrid(schedule=betas)


@pytest.mark.parametrize("image_size", [16, 32])
def test_a_dynamic_shift_becomes_that_of_the_images_size(tmp_path: Path, image_size: int) -> None:
    pipeline = flux(tmp_path)
    grid = read_diffusers(tmp_path, image_size=image_size).config.grid
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    pipeline.scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=calculate_shift((image_size // 4) ** 2))
    sigmas = pipeline.scheduler.sigmas.double()
    expected = torch.atan2(sigmas, 1 - sigmas) / (torch.pi / 2)
    torch.testing.assert_close(torch.tensor(grid.times(4), dtype=torch.float64), expected, rtol=0, atol=1e-6)


def test_a_v_prediction_with_zero_terminal_snr_begins_at_pure_noise(tmp_path: Path) -> None:
    scheduler = diffusers.EulerDiscreteScheduler(
        **LATENT_BETAS, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    sdxl(tmp_path, scheduler=scheduler)
    config = read_diffusers(tmp_path).config
    assert config.prediction is PredictionType.V
    assert isinstance(config.foreign_schedule, DiscreteSchedule)
    ours = torch.sigmoid(torch.tensor(config.foreign_schedule.log_snr(), dtype=torch.float64))
    torch.testing.assert_close(ours, scheduler.alphas_cumprod.double(), rtol=2e-3, atol=1e-6)
    assert config.grid.times(4)[0] == 1
    denoiser = imported(tmp_path)
    times = denoiser.boundary.time(torch.tensor(config.grid.times(4)[:-1]))
    torch.testing.assert_close(times, torch.tensor([999.0, 749, 499, 249]), rtol=0, atol=1e-2)


def test_a_guidance_input_starts_without_effect_and_is_asked_as_the_stock_pipeline_does(tmp_path: Path) -> None:
    pipeline = stable_diffusion(tmp_path)
    teacher = imported(tmp_path)
    network = teacher.config.network.for_student(guidance_input=True)
    student = student_of(teacher, teacher.config.model_copy(update={"network": network})).eval()
    assert sum(parameter.numel() for parameter in student.network.parameters()) == network.parameters  # type: ignore[union-attr]
    z, t, w = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.9]), torch.tensor([4.0, 6.5])
    columns = some_conditioning(network, rows=2)  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.equal(student(z, t, columns, w), teacher(z, t, columns))
        torch.nn.init.normal_(student.network.get_parameter("time_embedding.cond_proj.weight"))
        guidance = pipeline.get_guidance_scale_embedding(w, 256)
        expected = student.network(
            z, student.boundary.time(t), encoder_hidden_states=columns["prompt_embeds"], timestep_cond=guidance
        ).sample
        assert torch.equal(student(z, t, columns, w), expected)


def test_a_guidance_input_stays_and_is_refused_where_there_is_no_place_for_it(tmp_path: Path) -> None:
    flux(tmp_path / "dev")
    dit(tmp_path / "dit")
    assert read_diffusers(tmp_path / "dev").config.network.for_student(guidance_input=False).guidance_input
    with pytest.raises(UsageError, match="no place for a guidance input"):
        read_diffusers(tmp_path / "dit").config.network.for_student(guidance_input=True)


def test_labels_are_not_dropped_in_training(tmp_path: Path) -> None:
    dit(tmp_path)
    denoiser = imported(tmp_path).train()
    z, t = torch.randn(64, 4, 8, 8), torch.full((64,), 0.5)
    with torch.no_grad():
        first, second = (denoiser(z, t, {"label": torch.arange(64)}) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("family", PIPELINES)
def test_random_initial_weights_are_a_function_of_the_seed(tmp_path: Path, family: str) -> None:
    PIPELINES[family](tmp_path)
    config = read_diffusers(tmp_path).config
    first, again, other = (build_denoiser(config, seed).network.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert all(tensor.isfinite().all() for tensor in first.values())


@pytest.mark.parametrize("family", PIPELINES)
def test_the_blocks_hold_nearly_all_parameters(tmp_path: Path, family: str) -> None:
    PIPELINES[family](tmp_path)
    denoiser = build_denoiser(read_diffusers(tmp_path).config, seed=0)
    held = {id(p) for block in denoiser.ask.blocks(denoiser.network) for p in block.parameters()}
    names = dict(denoiser.network.named_parameters())
    assert len(held) > len(names) / 2
    assert set(denoiser.ask.last_layers(denoiser.network)) <= names.keys()


def edit(path: Path, **changes: Any) -> None:
    """Change some settings of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd")
    stable_diffusion(folder)
    return folder


@pytest.fixture
def folder(sd_folder: Path, tmp_path: Path) -> Path:
    """A pipeline's folder to spoil."""
    return Path(shutil.copytree(sd_folder, tmp_path / "pipeline"))


def test_shards_and_variants_are_the_same_model(folder: Path) -> None:
    expected, whole = read_diffusers(folder), folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(whole)
    whole.rename(whole.with_name("diffusion_pytorch_model.fp16.safetensors"))
    encoder = folder / "text_encoder" / "model.safetensors"
    encoder.rename(encoder.with_name("model.fp16.safetensors"))
    variant = read_diffusers(folder)
    assert variant.pipeline is not None and expected.pipeline is not None
    assert variant.pipeline.files.keys() == expected.pipeline.files.keys()
    whole.with_name("diffusion_pytorch_model.fp16.safetensors").unlink()
    names = sorted(weights)
    parts = {f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, whole.with_name(file))
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    whole.with_name(f"{whole.name}.index.json").write_text(json.dumps(index))
    for found in (variant, read_diffusers(folder)):
        assert found.config == expected.config
        assert all(torch.equal(found.weights[name], tensor) for name, tensor in expected.weights.items())
    whole.with_name(next(iter(parts))).unlink()
    with pytest.raises(UsageError, match="00001-of-00002.safetensors is missing"):
        read_diffusers(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_stay_in_half_precision_and_compute_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    dit(tmp_path, num_classes=3).transformer.to(dtype).save_pretrained(tmp_path / "transformer")
    kept = torch.float32 if dtype is torch.float64 else dtype
    assert {tensor.dtype for tensor in read_diffusers(tmp_path).weights.values()} == {kept}
    denoiser = imported(tmp_path)
    assert {parameter.dtype for parameter in denoiser.parameters()} == {torch.float32}
    assert load_file(tmp_path / "imported.safetensors")["network.proj_out_2.weight"].dtype is kept


def test_missing_components_are_said_and_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(folder / "text_encoder")
    edit(folder / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    pipeline = read_diffusers(folder).pipeline
    assert "has no text_encoder, safety_checker; imported without" in caplog.text.replace(
        "safety_checker, text_encoder", "text_encoder, safety_checker"
    )
    assert pipeline is not None
    index = json.loads(pipeline.model_index)
    assert index["text_encoder"] == index["safety_checker"] == [None, None]
    assert not any(name.startswith("text_encoder") for name in pipeline.files)


FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}


@pytest.mark.parametrize(
    ("file", "changes", "complaint"),
    [
        ("scheduler/scheduler_config.json", FLOW, "of rectified flow.* UNet2DConditionModel.*--scheduler"),
        (
            "model_index.json",
            {"_class_name": "KandinskyPipeline"},
            "describes a KandinskyPipeline with .*; what can be",
        ),
        ("model_index.json", {"_class_name": "SanaPipeline"}, "config.json does not exist"),
        ("unet/config.json", {"_class_name": "UNet3DConditionModel"}, "describes a UNet3DConditionModel"),
        ("unet/config.json", {"in_channels": 9}, "9 input and 4 output channels: networks that also take an image"),
        ("unet/config.json", {"layers_per_block": 2}, "does not fit"),
        ("unet/config.json", {"quantization_config": {"load_in_8bit": True}}, "is quantized"),
        ("vae/config.json", {"_class_name": "AutoencoderTiny"}, "describes a AutoencoderTiny"),
        ("vae/config.json", {"latents_mean": [0.0]}, "latents_mean"),
        ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
    ],
)
def test_what_cannot_be_imported_is_refused_by_name(
    folder: Path, file: str, changes: dict[str, Any], complaint: str
) -> None:
    edit(folder / file, **changes)
    with pytest.raises(UsageError, match=complaint):
        read_diffusers(folder)


def test_a_flow_network_with_betas_is_refused(tmp_path: Path) -> None:
    sd3(tmp_path)
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "DDIMScheduler", **LATENT_BETAS}))
    with pytest.raises(UsageError, match="of the family of an index of betas.* SD3Transformer2DModel.*rectified flow"):
        read_diffusers(tmp_path)


def test_what_is_missing_or_pickled_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--label-dropout is for a UNet2DModel"):
        read_diffusers(folder, label_dropout=True)
    with pytest.raises(UsageError, match="--image-size 15: give a multiple of 2"):
        read_diffusers(folder, image_size=15)
    with pytest.raises(UsageError, match="--reversed-time is for"):
        read_diffusers(folder, reversed_time=True)
    with pytest.raises(UsageError, match="is the network of a StableDiffusionPipeline: give the whole folder"):
        read_diffusers(folder / "unet")
    encoder = folder / "text_encoder" / "model.safetensors"
    encoder.rename(encoder.with_name("pytorch_model.bin"))
    with pytest.raises(UsageError, match="is a pickle: convert the pipeline first"):
        read_diffusers(folder)
    shutil.rmtree(folder / "text_encoder")
    shutil.rmtree(folder / "vae")
    with pytest.raises(UsageError, match="has no vae"):
        read_diffusers(folder)


def test_a_latent_pipeline_is_never_imported_as_pixels(tmp_path: Path) -> None:
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    vq = diffusers.VQModel(block_out_channels=(8,), norm_num_groups=4)
    diffusers.LDMPipeline(vqvae=vq, unet=unet, scheduler=diffusers.DDIMScheduler()).save_pretrained(tmp_path)
    for folder in (tmp_path, tmp_path / "unet"):
        with pytest.raises(UsageError, match="describes a LDMPipeline with vqvae"):
            read_diffusers(folder)


def test_sit_runs_the_other_way(tmp_path: Path) -> None:
    """SiT is asked with 1 − τ, and answers x − ε."""
    pipeline = dit(tmp_path, scheduler=diffusers.FlowMatchEulerDiscreteScheduler())
    denoiser = imported(tmp_path, reversed_time=True)
    z, tau, labels = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.8]), torch.tensor([3, 1000])
    t = torch.atan2(tau, 1 - tau) / (torch.pi / 2)
    alpha, sigma = (c[:, None, None, None] for c in alpha_sigma(t))
    with torch.no_grad():
        u = -pipeline.transformer(z / (alpha + sigma), timestep=1 - tau, class_labels=labels).sample[:, :4]
        found = denoiser.velocity(z, t, {"label": labels})
    torch.testing.assert_close(found, (u + (alpha - sigma) * z) / (alpha + sigma), rtol=1e-3, atol=1e-4)
