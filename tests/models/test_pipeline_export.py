"""Latent students are exported to what people load: stock pipelines draw from the same latent what we draw."""

import warnings
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import load_file

from progdistill.diffusion.grid import AngleGrid, FlowGrid
from progdistill.diffusion.names import PredictionType
from progdistill.errors import LostInvariantError, UsageError
from progdistill.models.comfyui_export import export_comfyui
from progdistill.models.config import DenoiserConfig, LoraConfig
from progdistill.models.denoiser import Denoiser, save_weights, student_of, unallocated, weights_of
from progdistill.models.diffusers_import import read_diffusers
from progdistill.models.lora_export import lora_file_name
from progdistill.models.pipeline_export import export_pipeline, largest_difference, load_for_comparison
from progdistill.models.pipeline_scheduler import call_arguments, stock_scheduler
from progdistill.registry.checkpoint import CheckpointKind, CheckpointManifest, publish_checkpoint
from progdistill.registry.pipeline import PipelineFacts, load_pipeline
from progdistill.registry.resolve import resolve_reference
from progdistill.store.base import Store
from progdistill.store.open import open_store
from tests.models.command_line import follow_card, run
from tests.models.conftest import randomize
from tests.models.pipelines import LATENT_BETAS, PIPELINES, sd3, sdxl
from tests.models.test_pipelines import imported
from tests.registry.samples import description, provenance

# Of diffusers' own use of numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


def student(folder: Path, guidance_input: bool = False, **changes: Any) -> tuple[Denoiser, PipelineFacts]:
    """A v-student of the pipeline in a folder, with weights moved off its teacher's."""
    facts = read_diffusers(folder, image_size=16 if (folder / "tokenizer_2").is_dir() else None).pipeline
    assert facts is not None
    teacher = imported(folder, image_size=16 if facts.facts.family == "flux" else None)
    network = teacher.config.network.for_student(guidance_input=guidance_input)
    config = teacher.config.model_copy(update={"prediction": PredictionType.V, "network": network, **changes})
    return randomize(student_of(teacher, config)), facts.facts


@pytest.mark.parametrize(
    ("family", "steps", "scheduler"),
    [
        ("sd", 4, "DDIMScheduler"),
        pytest.param("sd", 3, "EulerDiscreteScheduler", marks=pytest.mark.slow),
        pytest.param("sdxl", 1, "DDIMScheduler", marks=pytest.mark.slow),
        ("dit", 4, "DDIMScheduler"),
        pytest.param("sd3", 1, "FlowMatchEulerDiscreteScheduler", marks=pytest.mark.slow),
        pytest.param("sd3", 2, "FlowMatchEulerDiscreteScheduler", marks=pytest.mark.slow),
        ("sd3", 4, "FlowMatchEulerDiscreteScheduler"),
        ("flux", 4, "FlowMatchEulerDiscreteScheduler"),
        pytest.param("sana", 3, "FlowMatchEulerDiscreteScheduler", marks=pytest.mark.slow),
    ],
)
def test_the_stock_pipeline_draws_what_the_student_draws(
    tmp_path: Path, family: str, steps: int, scheduler: str
) -> None:
    PIPELINES[family](tmp_path / "teacher")
    denoiser, facts = student(tmp_path / "teacher")
    export_pipeline(denoiser, tmp_path / "teacher", facts, tmp_path / "out", steps)
    pipeline = load_for_comparison(tmp_path / "out")
    assert type(pipeline.scheduler).__name__ == scheduler
    assert largest_difference(denoiser, pipeline, facts, steps, 3.0) < 1e-3
    with torch.no_grad():
        next(iter(denoiser.network.parameters())).mul_(1.5)
    with pytest.raises(LostInvariantError, match="stock diffusers draws another image"):
        largest_difference(denoiser, pipeline, facts, steps, 3.0)


@pytest.mark.slow
def test_shift_1_needs_no_sigmas(tmp_path: Path) -> None:
    sd3(tmp_path / "teacher", shift=1.0)
    denoiser, facts = student(tmp_path / "teacher")
    export_pipeline(denoiser, tmp_path / "teacher", facts, tmp_path / "out", 8)
    assert "sigmas" not in call_arguments(denoiser.config, facts, 8, None)
    assert largest_difference(denoiser, load_for_comparison(tmp_path / "out"), facts, 8, None) < 1e-3


@pytest.mark.slow
def test_zero_terminal_snr_stays_in_the_export(tmp_path: Path) -> None:
    noise = diffusers.EulerDiscreteScheduler(
        **LATENT_BETAS, prediction_type="v_prediction", rescale_betas_zero_snr=True
    )
    sdxl(tmp_path / "teacher", scheduler=noise)
    denoiser, facts = student(tmp_path / "teacher")
    export_pipeline(denoiser, tmp_path / "teacher", facts, tmp_path / "out", 4)
    assert largest_difference(denoiser, load_for_comparison(tmp_path / "out"), facts, 4, None) < 1e-3


@pytest.mark.slow
def test_a_guidance_input_is_the_stock_pipelines_guidance_scale(tmp_path: Path) -> None:
    PIPELINES["sd"](tmp_path / "teacher")
    denoiser, facts = student(tmp_path / "teacher", guidance_input=True)
    export_pipeline(denoiser, tmp_path / "teacher", facts, tmp_path / "out", 2)
    pipeline = load_for_comparison(tmp_path / "out")
    for scale in (1.5, 7.5):
        assert largest_difference(denoiser, pipeline, facts, 2, scale) < 1e-3


def test_steps_that_no_scheduler_makes_are_refused_with_what_can(tmp_path: Path) -> None:
    PIPELINES["dit"](tmp_path / "dit")
    PIPELINES["sd3"](tmp_path / "sd3")
    dit, flow = read_diffusers(tmp_path / "dit").config, read_diffusers(tmp_path / "sd3").config
    with pytest.raises(UsageError, match="choose a divisor of 1000"):
        stock_scheduler(dit, 3)
    with pytest.raises(UsageError, match="takes even steps of the angle: .* distill.grid=auto"):
        stock_scheduler(dit.model_copy(update={"grid": AngleGrid()}), 4)
    with pytest.raises(UsageError, match="takes no x-model"):
        stock_scheduler(flow.model_copy(update={"prediction": PredictionType.X}), 4)
    assert stock_scheduler(flow.model_copy(update={"grid": FlowGrid(shift=2.0)}), 4).config.shift == 2


def publish_student(store: Store, teacher: CheckpointManifest, config: DenoiserConfig, weights: Any) -> str:
    """Publish a student of 4 steps; returns its id."""
    file = store.scratch() / "student.safetensors"
    save_weights(weights, file)
    identity = description(
        kind=CheckpointKind.STUDENT,
        sampling_steps=4,
        parent=teacher.id,
        prediction=str(config.prediction),
        architecture=config.model_dump(mode="json"),
        training={},
    )
    return publish_checkpoint(store, file, identity, provenance()).id


def test_from_import_to_the_card_of_an_export(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As the commands do it: the pipeline is kept with the teacher, and every format is made of the student."""
    PIPELINES["sd"](tmp_path / "teacher")
    assert run(store, "import", tmp_path / "teacher", "--name", "teacher") == 0
    teacher = resolve_reference(store, "teacher")
    assert DenoiserConfig.of(teacher.identity).pipeline is not None
    config = DenoiserConfig.of(teacher.identity).model_copy(update={"prediction": PredictionType.V})
    denoiser = randomize(Denoiser(config, imported(tmp_path / "teacher").network))
    made = publish_student(store, teacher, config, weights_of(denoiser))
    assert run(store, "export", made, "--format", "diffusers", "--out", tmp_path / "out") == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Sampler: DDIMScheduler, 4 steps, guidance scale 1.0" in card
    assert "draws the same as this model from the same latent" in card
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        images = follow_card(tmp_path / "out")["images"]
    assert images[0].size == (16, 16)
    assert run(store, "export", made, "--format", "comfyui", "--out", tmp_path / "comfyui") == 0
    assert "sgm_uniform" in (tmp_path / "comfyui" / "README.md").read_text()
    assert run(store, "export", "teacher", "--format", "diffusers", "--out", tmp_path / "again") == 0
    with pytest.raises(UsageError, match="without prompts, and this one takes prompt_embeds"):
        run(store, "export", made, "--format", "onnx", "--out", tmp_path / "onnx")
    assert run(store, "export", made, "--format", "safetensors", "--out", tmp_path / "whole") == 0
    other = open_store(str(tmp_path / "other"))
    assert run(other, "import", tmp_path / "whole", "--name", "student") == 0
    assert load_pipeline(other, str(config.pipeline)) == load_pipeline(store, str(config.pipeline))
    (tmp_path / "whole" / "pipeline" / "model_index.json").write_text("{}")
    with pytest.raises(LostInvariantError, match="is not that of"):
        run(other, "import", tmp_path / "whole", "--name", "student")
    with pytest.raises(UsageError, match="has weights of its own: distill it as a LoRA"):
        run(store, "export", made, "--format", "lora", "--out", tmp_path / "lora")


def publish_lora(store: Store, folder: Path, family: str) -> str:
    """Publish a LoRA student of 4 steps; alpha is not the rank, and convolutions have adapters too."""
    PIPELINES[family](folder / "teacher")
    run(store, "import", folder / "teacher", "--name", "teacher")
    teacher = resolve_reference(store, "teacher")
    lora = LoraConfig(base=teacher.id, rank=2, alpha=3.0, targets=())
    changes = {"prediction": PredictionType.V, "lora": lora}
    config = DenoiserConfig.of(teacher.identity).model_copy(update=changes)
    from progdistill.models.adapters import adapter_shapes

    random = torch.Generator().manual_seed(7)
    shapes = adapter_shapes(unallocated(config), 2, ())
    weights = {name: 0.2 * torch.randn(shape, generator=random) for name, shape in shapes.items()}
    return publish_student(store, teacher, config, weights)


@pytest.mark.parametrize("family", [pytest.param("sd", marks=pytest.mark.slow), "sd3"])
def test_a_lora_is_loaded_onto_its_base(store: Store, tmp_path: Path, family: str) -> None:
    made = publish_lora(store, tmp_path, family)
    run(store, "export", made, "--format", "lora", "--out", tmp_path / "lora")
    name = lora_file_name(made[:12], 4)
    assert load_file(tmp_path / "lora" / name).keys()
    assert "the largest difference found is" in (tmp_path / "lora" / "README.md").read_text()


def test_a_lora_whose_pipeline_loads_none_is_exported_merged(store: Store, tmp_path: Path) -> None:
    made = publish_lora(store, tmp_path, "dit")
    with pytest.raises(UsageError, match="a DiTPipeline loads no LoRA files: export diffusers"):
        run(store, "export", made, "--format", "lora", "--out", tmp_path / "lora")
    assert run(store, "export", made, "--format", "diffusers", "--out", tmp_path / "merged") == 0


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_the_file_for_comfyui_has_the_original_names(tmp_path: Path, family: str) -> None:
    """diffusers' own reader of original files gives the network back."""
    PIPELINES[family](tmp_path / "teacher")
    denoiser, _ = student(tmp_path / "teacher")
    export_comfyui(denoiser, tmp_path / "comfyui.safetensors", None)
    found = load_file(tmp_path / "comfyui.safetensors")
    assert found.pop("v_pred").numel() == 0
    assert "ztsnr" not in found
    config = dict(denoiser.network.config)  # type: ignore[arg-type]
    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in found.items()}
    if family == "sdxl":
        config["num_class_embeds"] = None
    back = convert_ldm_unet_checkpoint(prefixed, config)
    expected = denoiser.network.state_dict()
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in expected.items())


@pytest.mark.slow
def test_a_guidance_scale_is_built_into_the_file_for_comfyui(tmp_path: Path) -> None:
    PIPELINES["sd"](tmp_path / "teacher")
    denoiser, _ = student(tmp_path / "teacher", guidance_input=True)
    export_comfyui(denoiser, tmp_path / "comfyui.safetensors", 5.0)
    config = {name: value for name, value in denoiser.network.config.items() if not name.startswith("_")}  # type: ignore[union-attr]
    plain = diffusers.UNet2DConditionModel(**config | {"time_cond_proj_dim": None}).eval()
    found = load_file(tmp_path / "comfyui.safetensors")
    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in found.items()}
    plain.load_state_dict(convert_ldm_unet_checkpoint(prefixed, plain.config))
    z, t, prompt = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.9]), torch.randn(2, 77, 32)
    with torch.no_grad():
        expected = denoiser(z, t, {"prompt_embeds": prompt}, torch.full((2,), 4.0))
        answer = plain(z, denoiser.boundary.time(t), prompt).sample
    torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-4)


def test_other_networks_have_no_file_for_comfyui(tmp_path: Path) -> None:
    PIPELINES["dit"](tmp_path)
    denoiser, _ = student(tmp_path)
    with pytest.raises(UsageError, match="is for Stable Diffusion and SDXL"):
        export_comfyui(denoiser, tmp_path / "x.safetensors", None)
