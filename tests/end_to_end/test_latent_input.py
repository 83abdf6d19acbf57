"""What is wrong with a latent model or its data is one message and status 2, and the advice in it works."""

import json
import re
import shutil
from pathlib import Path

import pytest

from progdistill.cli.main import main
from progdistill.diffusion.names import PredictionType
from progdistill.models.config import DenoiserConfig, LoraConfig
from progdistill.models.diffusers_import import read_diffusers
from progdistill.registry.checkpoint import CheckpointKind, publish_checkpoint
from progdistill.registry.pipeline import load_pipeline
from progdistill.registry.resolve import resolve_reference
from progdistill.run import encode
from progdistill.store.open import open_store
from tests.end_to_end.families import make_images
from tests.jobs.asking import InThisProcess
from tests.models.pipelines import LATENT_BETAS, PIPELINES
from tests.registry.samples import description, provenance, weights_file

# Of diffusers' own use of numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

STORE = ".progdistill/store"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pipelines, and a store and a dataset that one of them has encoded."""
    folder = tmp_path_factory.mktemp("latents")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setenv("PROGDISTILL_DATA", "data")
        patched.setattr(encode, "_launcher", lambda *_: InThisProcess())
        for name in ("sd", "sd3", "dit"):
            PIPELINES[name](folder / name)
        PIPELINES["sd"](folder / "other", seed=1)
        make_images(folder / "images", 16, each=1)
        (folder / "images" / "red" / "0.txt").write_text("red " * 40)
        for name in ("sd", "other", "dit"):
            assert main(["import", name, "--name", name]) == 0
        assert main(["data", "prepare", "colors", "--source", "images", "--captions", "txt"]) == 0
        assert main(["data", "encode", "colors", "--pipeline", "sd"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _here(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    monkeypatch.setenv("PROGDISTILL_DATA", "data")


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one message of a command that is refused with status 2."""
    capsys.readouterr()
    assert main(list(words)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1, said
    return said


def test_a_scheduler_of_another_family_than_its_network(capsys: pytest.CaptureFixture[str]) -> None:
    Path("betas.json").write_text(json.dumps({"_class_name": "DDIMScheduler", **LATENT_BETAS}))
    Path("flow.json").write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}))
    for folder, other, scheduler in (("sd", "flow.json", "sd"), ("sd3", "betas.json", "sd3")):
        said = refused(capsys, "import", folder, "--name", "x", "--scheduler", other)
        assert f"{other} is for " in said and "give the scheduler of its training with --scheduler FILE" in said
        own = f"{scheduler}/scheduler/scheduler_config.json"
        assert main(["import", folder, "--name", "x", "--scheduler", own]) == 0


def test_a_lora_whose_base_is_not_in_the_store(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    base = resolve_reference(open_store(STORE), "sd")
    lora = LoraConfig(base=base.id, rank=2, alpha=2.0)
    config = DenoiserConfig.of(base.identity).model_copy(update={"lora": lora, "prediction": PredictionType.V})
    facts = description(
        kind=CheckpointKind.STUDENT,
        sampling_steps=4,
        parent=base.id,
        prediction="v",
        architecture=config.model_dump(mode="json"),
    )
    made = publish_checkpoint(open_store(STORE), weights_file(tmp_path), facts, provenance())
    copy = ("import", made.id, "--from-store", STORE, "--name", "lora", "--store", "elsewhere")
    said = refused(capsys, *copy)
    assert base.id in said
    (advice,) = re.findall(r"`progdistill (import [^`]+)`", said)
    assert main([*advice.replace("OTHER", STORE).replace("NAME", "base").split(), "--store", "elsewhere"]) == 0
    assert main(list(copy)) == 0


def test_a_dataset_that_another_pipeline_encoded(capsys: pytest.CaptureFixture[str]) -> None:
    run = ("--dataset", "colors-encoded", "--ladder", "4:1")
    said = refused(capsys, "plan", "--from", "other", *run)
    found = re.search(r"(\S+) has SHA-256 ([0-9a-f]{64}), the teacher's ([0-9a-f]{64})", said)
    assert found is not None
    name, *digests = found.groups()
    store = open_store(STORE)
    ids = [resolve_reference(store, alias).identity.architecture["pipeline"] for alias in ("sd", "other")]
    assert digests == [load_pipeline(store, str(pipeline)).files[name].sha256 for pipeline in ids]
    assert "progdistill data encode" in said
    assert main(["plan", "--from", "sd", *run]) == 0


def test_prompts_that_are_too_long_are_counted_and_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    note = "longer than the text encoder takes"
    assert main(["data", "info", "colors-encoded"]) == 0
    assert f"1 {note}, and cut" in capsys.readouterr().out
    Path("prompts.txt").write_text("a wall\n" + "b" * 100 + "\n")
    draw = ["sample", "sd", "--sampling-steps", "1", "--count", "4", "--prompts", "prompts.txt", "--out", "grid.png"]
    assert main(draw) == 0
    assert capsys.readouterr().err.count(f"note: 1 of 2 prompts are {note}, and were cut") == 1


def test_a_grid_that_no_stock_scheduler_makes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["data", "prepare", "classes", "--classes", "1000"]) == 0
    plan = ["plan", "--from", "dit", "--dataset", "classes", "--set", "distill.states_from=teacher", "--ladder"]
    assert main([*plan, "32:8"]) == 0
    reason = "no stock scheduler makes 16 steps in a DiTPipeline: choose a divisor of 1000"
    assert f"not for stock pipelines: {reason}" in capsys.readouterr().out
    assert main([*plan, "8:1"]) == 0
    assert "not for stock" not in capsys.readouterr().out
    assert main([*plan, "8:1", "--set", "distill.grid=angle"]) == 0
    assert "distill it with distill.grid=auto" in capsys.readouterr().out
    model = read_diffusers(Path("dit")).config.model_copy(update={"prediction": PredictionType.V})
    teacher = resolve_reference(open_store(STORE), "dit")
    config = model.model_copy(update={"pipeline": teacher.identity.architecture["pipeline"]})
    facts = description(
        kind=CheckpointKind.STUDENT,
        sampling_steps=16,
        parent=teacher.id,
        prediction="v",
        architecture=config.model_dump(mode="json"),
    )
    made = publish_checkpoint(open_store(STORE), weights_file(tmp_path, seed=2), facts, provenance())
    shutil.rmtree("out", ignore_errors=True)
    assert reason in refused(capsys, "export", made.id, "--format", "diffusers", "--out", "out")
