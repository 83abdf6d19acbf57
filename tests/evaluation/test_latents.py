"""Latent models are sampled as images: prompts go in, the VAE decodes, guidance leads away from the empty prompt."""

from pathlib import Path

import diffusers
import numpy as np
import pytest
from PIL import Image

from progdistill import load
from progdistill.cli.main import main
from progdistill.diffusion.noise import sample_noise
from progdistill.errors import UsageError
from progdistill.evaluation.measurement import EvaluationRecord
from progdistill.images import decode_contact_sheet
from progdistill.store.layout import blob_key
from progdistill.store.open import open_store
from tests.models.command_line import run
from tests.models.pipelines import dit, stable_diffusion

# Of diffusers' own use of numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

PROMPTS = ["a red fish", "two green boats"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text pipeline in `sd`, a class-conditional one in `dit`, and a store that has imported both."""
    folder = tmp_path_factory.mktemp("latents")
    for name, make in (("sd", stable_diffusion), ("dit", dit)):
        make(folder / name)
        assert run(open_store(str(folder / "store")), "import", folder / name, "--name", name) == 0
    return folder


def test_a_text_model_draws_what_its_stock_pipeline_draws(folder: Path) -> None:
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder / "sd")
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True, steps_offset=0
    )
    noise = sample_noise(0, "sample", range(4), (4, 8, 8))
    stock = pipeline(
        [*PROMPTS, *PROMPTS], latents=noise, guidance_scale=5.0, num_inference_steps=4, output_type="np"
    ).images
    model = load("sd", store=str(folder / "store"))
    ours = model.sample(4, seed=0, sampling_steps=4, guidance_scale=5.0, prompts=PROMPTS).images
    assert np.abs(ours / 255 - stock).max() < 0.005
    other = model.sample(2, seed=0, sampling_steps=4, guidance_scale=5.0, prompts=PROMPTS[::-1]).images
    assert np.abs(ours[:2].astype(int) - other).max() > 0


def test_a_text_model_asks_for_prompts_and_others_refuse_them(folder: Path) -> None:
    with pytest.raises(UsageError, match="give prompts"):
        load("sd", store=str(folder / "store")).sample(1, sampling_steps=2)
    with pytest.raises(UsageError, match="takes no prompts"):
        load("dit", store=str(folder / "store")).sample(1, sampling_steps=2, prompts=PROMPTS)


def test_a_latent_model_of_classes_draws_images(folder: Path) -> None:
    samples = load("dit", store=str(folder / "store")).sample(3, sampling_steps=2, class_label=7)
    assert samples.images.shape == (3, 16, 16, 3) and samples.labels == [7, 7, 7]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_latent_model_is_compared_with_the_images_beside_its_latents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    dit(tmp_path / "dit", num_classes=3)
    random = np.random.default_rng(0)
    for number in range(12):
        place = tmp_path / "images" / "abc"[number % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(place / f"{number}.png")
    measured = ("--samples", "9", "--evaluator", "efficientnet_lite0", "--json")
    commands = (
        ("data", "prepare", "shapes", "--source", "images", "--image-size", "16"),
        ("import", "dit", "--name", "dit"),
        ("data", "encode", "shapes", "--pipeline", "dit", "--keep-images"),
        ("evaluate", "dit", "--dataset", "shapes-encoded", "--sampling-steps", "2", *measured),
    )
    for words in commands:
        capsys.readouterr()
        assert main([*words]) == 0
    record = EvaluationRecord.model_validate_json(capsys.readouterr().out)
    assert record.distilled is not None and record.distilled.distance > 0
    shown, store = record.distilled.shown, open_store(str(tmp_path / ".progdistill" / "store"))
    assert shown is not None
    sheet = store.download(blob_key(shown.file.sha256), shown.file)
    drawn = load("dit", store=store.uri).sample(9, seed=0, sampling_steps=2)
    # Decoded, not latents that are taken for images.
    np.testing.assert_array_equal(decode_contact_sheet(sheet.read_bytes(), 9), drawn.images)
    assert shown.labels == tuple(drawn.labels or ())
