"""An imported teacher brings its network: images of a size without a preset are distilled and evaluated."""

import json
import re
import shlex
from pathlib import Path

import diffusers
import numpy as np
import pytest
from PIL import Image

from progdistill.cli.main import main
from progdistill.errors import UsageError

EFFICIENTNET = ("--set", "evaluation.evaluator=efficientnet_lite0")


@pytest.fixture(params=[(28, 1), (256, 3)], ids=str, scope="module")
def teacher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prepared dataset, and a store with a model of its images as `model`."""
    size, channels = request.param
    folder = tmp_path_factory.mktemp("teacher")
    unet = diffusers.UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D" if size < 100 else "DownBlock2D"),
        up_block_types=("AttnUpBlock2D" if size < 100 else "UpBlock2D", "UpBlock2D"),
        add_attention=size < 100,
    )
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(folder / "pipeline")
    (folder / "images").mkdir()
    for i in range(8):
        shape = (size, size) if channels == 1 else (size, size, 3)
        Image.fromarray(np.full(shape, 30 * i, np.uint8)).save(folder / "images" / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        _place(patch, folder)
        gray = ("--gray",) if channels == 1 else ()
        assert main(["data", "prepare", "images", "--source", str(folder / "images"), *gray]) == 0
        assert main(["import", str(folder / "pipeline"), "--name", "model", "--dataset", "images"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _in_its_folder(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _place(monkeypatch, teacher)


def _place(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.chdir(folder)
    patch.setenv("PROGDISTILL_DATA", str(folder / "data"))
    patch.setenv("PROGDISTILL_STORE", str(folder / "store"))


@pytest.mark.parametrize("words", [(), ("--preset", "cifar10"), ("--set", "model.network.image_size=64")])
def test_its_students_need_no_preset_of_their_size(words: tuple[str, ...]) -> None:
    assert main(["plan", "--from", "model", "--ladder", "4:2", *EFFICIENTNET, *words]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("teacher", [(28, 1)], ids=str, indirect=True)
def test_it_is_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    words = "evaluate model --steps 2 --samples 8 --evaluator efficientnet_lite0 --no-baselines --json"
    assert main(words.split()) == 0
    assert json.loads(capsys.readouterr().out)["distilled"]["distance_name"] == "frechet_efficientnet_lite0"


def test_the_advice_for_a_base_model_of_that_size_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--dataset", "images", "--ladder", "4:2", *EFFICIENTNET]) == UsageError.exit_status
    (advice,) = re.findall("at that size: (.*)", capsys.readouterr().err)
    assert main(["plan", "--dataset", "images", "--ladder", "4:2", *EFFICIENTNET, *shlex.split(advice)]) == 0
