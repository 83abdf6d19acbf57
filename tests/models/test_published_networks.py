"""Published models by their configurations alone: counted, planned, imported and exported by name and shape."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from progdistill.cli.main import main
from progdistill.data.catalog import UNKNOWN_DATASET
from progdistill.data.columns import LABEL, Column
from progdistill.diffusion.grid import FlowGrid, TrailingGrid
from progdistill.diffusion.names import PredictionType
from progdistill.models.comfyui_export import original_names
from progdistill.models.config import DiffusersConfig
from progdistill.models.denoiser import guidance_parameter, mismatch, unallocated
from progdistill.models.pipeline_import import keep_pipeline
from progdistill.models.pipeline_scheduler import stock_scheduler
from progdistill.models.size import parameter_count
from progdistill.registry.checkpoint import CheckpointKind, publish_checkpoint
from progdistill.store.local import LocalStore
from progdistill.store.open import open_store
from progdistill.training.profile import forward_flops
from tests.data.datasets import encoded_dataset
from tests.models.published_models import published
from tests.registry.samples import description, provenance, weights_file

pytestmark = pytest.mark.slow

GUIDES = Path(__file__).parents[2] / "docs" / "how_to"


@pytest.mark.parametrize("name", ["dit-xl-2-256", "sd15", "sdxl", "sd3", "flux-dev", "sana-1600m"])
def test_the_work_of_an_image_is_counted(name: str, tmp_path: Path) -> None:
    counted = forward_flops(published(name, tmp_path).config)
    assert counted > 1e11
    if name == "dit-xl-2-256":  # Peebles & Xie (2022) state 118.6 G, of a product and a sum each.
        assert counted == pytest.approx(2 * 118.6e9, rel=0.01)


@pytest.mark.parametrize(
    ("name", "parameters", "shape", "columns"),
    [
        # Rombach et al. (2022) state 860 M for the U-Net of Stable Diffusion, Podell et al. (2023) 2.6 B for SDXL's.
        ("sd15", 860e6, (4, 64, 64), {"prompt_embeds": (77, 768)}),
        (
            "sdxl",
            2.6e9,
            (4, 128, 128),
            {"prompt_embeds": (77, 2048), "pooled_prompt_embeds": (1280,), "time_ids": (6,)},
        ),
        # Peebles & Xie (2022): 675 M; diffusers has the embeddings of time and class in each of the 28 blocks.
        ("dit-xl-2-256", 675e6 + 27 * (1001 * 1152 + 256 * 1152 + 1152 * 1152), (4, 32, 32), {"label": ()}),
        # Their publishers say 2 B, 12 B and 1.6 B.
        ("sd3", 2.03e9, (16, 128, 128), {"prompt_embeds": (333, 4096), "pooled_prompt_embeds": (2048,)}),
        ("flux-dev", 11.9e9, (16, 128, 128), {"prompt_embeds": (512, 4096), "pooled_prompt_embeds": (768,)}),
        ("sana-1600m", 1.6e9, (32, 32, 32), {"prompt_embeds": (300, 2304), "prompt_attention_mask": (300,)}),
    ],
)
def test_a_published_model_is_what_its_publisher_says(
    name: str, parameters: float, shape: tuple[int, ...], columns: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    config = published(name, tmp_path).config
    network = config.network
    assert isinstance(network, DiffusersConfig)
    assert parameter_count(network) == pytest.approx(parameters, rel=0.02)
    assert network.sample_shape == shape
    assert {column.name: column.shape for column in network.columns} == columns
    assert config.prediction == (PredictionType.EPS if isinstance(config.grid, TrailingGrid) else PredictionType.V)
    if isinstance(config.grid, FlowGrid):  # FLUX's is dynamic, exp(1.15) at 1024 × 1024
        assert config.grid.shift == pytest.approx({"flux-dev": 3.158}.get(name, 3.0), abs=1e-3)
    denoiser = unallocated(config)
    assert all(tensor.device == torch.device("meta") for tensor in denoiser.state_dict().values())
    assert sum(tensor.numel() for tensor in denoiser.network.parameters()) == parameter_count(network)
    student = config.model_copy(update={"prediction": PredictionType.V})
    assert stock_scheduler(student, 4).config.num_train_timesteps == 1000


@pytest.mark.parametrize(("name", "tensors"), [("sd15", 686), ("sdxl", 1680)])
def test_its_original_names_are_exported_and_read_back(name: str, tensors: int, tmp_path: Path) -> None:
    """The numbers are those of v1-5-pruned.safetensors and sd_xl_base_1.0.safetensors under model.diffusion_model."""
    config = published(name, tmp_path).config
    guided = config.model_copy(update={"network": config.network.for_student(guidance_input=True)})
    network = unallocated(guided).network
    weights = dict(network.state_dict())
    assert weights.pop(guidance_parameter(guided).removeprefix("network.")).shape == (320, 256)
    assert isinstance(config.network, DiffusersConfig)
    original = original_names(weights, config.network)
    assert len(original) == tensors
    assert original["input_blocks.3.0.op.weight"].shape == (320, 320, 3, 3)
    assert original["out.2.weight"].shape == (4, 320, 3, 3)
    if name == "sdxl":
        assert original["label_emb.0.0.weight"].shape == (1280, 2816)
        assert original["input_blocks.4.1.transformer_blocks.1.attn2.to_k.weight"].shape == (640, 2048)
        assert original["middle_block.1.transformer_blocks.9.ff.net.0.proj.weight"].shape == (10240, 1280)
        assert original["output_blocks.8.0.skip_connection.weight"].shape == (320, 640, 1, 1)
    facts = {**dict(network.config), "num_class_embeds": None}  # type: ignore[arg-type]
    prefixed = {f"model.diffusion_model.{key}": tensor for key, tensor in original.items()}
    back = convert_ldm_unet_checkpoint(prefixed, facts)
    assert mismatch({f"network.{key}": tensor for key, tensor in back.items()}, unallocated(config).state_dict()) == ""


def test_the_names_of_sd3_are_those_of_its_published_files(tmp_path: Path) -> None:
    names = dict(unallocated(published("sd3", tmp_path).config).network.named_parameters())
    assert names["transformer_blocks.23.attn.add_k_proj.weight"].shape == (1536, 1536)
    assert names["transformer_blocks.0.norm1_context.linear.weight"].shape == (9216, 1536)
    assert names["context_embedder.weight"].shape == (1536, 4096)
    assert names["proj_out.weight"].shape == (64, 1536)


def printed_plans(page: str) -> list[tuple[str, str]]:
    """Each plan that a guide shows, with the words of its command."""
    text = (GUIDES / f"{page}.md").read_text().replace("\\\n", " ")
    (command,) = re.findall(r"^progdistill (plan .*)$", text, re.M)
    return [(command, block) for block in re.findall(r"^```\n(Plan: .*?)^```$", text, re.M | re.S)]


@pytest.mark.parametrize(
    ("page", "place", "name", "changes"),
    [
        ("sdxl", 0, "sdxl", {}),
        ("dit", 0, "dit-xl-2-256", {}),
        ("flow", 0, "sd3", {}),
        ("flow", 1, "flux-dev", {"--guidance-scale 5": "--guidance-scale 1:5"}),
    ],
)
def test_the_guides_show_what_plan_prints(
    page: str,
    place: int,
    name: str,
    changes: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the network's weights absent, which a plan does not read, and as on a machine with room for them."""
    monkeypatch.setattr(LocalStore, "free_bytes", lambda store: None)
    monkeypatch.chdir(tmp_path)
    store = open_store(str(tmp_path / "store"))
    config, pipeline = published(name, tmp_path / name)
    config = config.model_copy(update={"pipeline": keep_pipeline(store, pipeline)})
    identity = description(
        kind=CheckpointKind.IMPORTED,
        dataset_fingerprint=UNKNOWN_DATASET,
        prediction=str(config.prediction),
        architecture=config.model_dump(mode="json"),
    )
    teacher = publish_checkpoint(store, weights_file(tmp_path), identity, provenance())
    columns = [column for column in config.network.columns if column.name != LABEL]
    latent = Column(name="latent_mean", shape=config.network.sample_shape)
    data = encoded_dataset(
        tmp_path, [latent, *columns], 2, 2, encoded_by=str(config.pipeline), classes=config.network.num_classes or 10
    )
    command, shown = printed_plans(page)[place]
    for word, value in changes.items():
        command = command.replace(word, value)
    command = re.sub(r"--from \S+", f"--from {teacher.id}", command)
    dataset = command.split("--dataset ")[1].split()[0]
    line = [*shlex.split(command.replace(dataset, data.location)), "--store", store.uri]
    assert main([*line, "--set", "compute.precision=bfloat16"]) == 0
    found = capsys.readouterr().out.replace(store.uri, "STORE").replace(teacher.id[:12], "TEACHER")
    assert found.replace("Plan: encoded", f"Plan: {dataset}") == shown
