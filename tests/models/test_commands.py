"""`progdistill export` and `progdistill import`, and the model card's instructions."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from progdistill.artifacts.checkpoint import CheckpointKind, CheckpointManifest, fetch_weights
from progdistill.artifacts.resolve import resolve_reference
from progdistill.artifacts.store import Store, open_store
from progdistill.diffusion.names import PredictionType
from progdistill.errors import LostInvariantError, UsageError
from progdistill.models.diffusers_export import export_diffusers
from tests.models.command_line import follow_card, publish, run
from tests.models.conftest import MakeDenoiser


@pytest.mark.parametrize("num_classes", [0, 10])
def test_the_card_of_a_diffusers_export_shows_how_to_draw(
    store: Store, make_denoiser: MakeDenoiser, tmp_path: Path, num_classes: int
) -> None:
    pytest.importorskip("diffusers")
    student = publish(store, make_denoiser(num_classes=num_classes), tmp_path)
    assert run(store, "export", student, "--format", "diffusers", "--out", tmp_path / "out") == 0
    assert len(follow_card(tmp_path / "out")["images"]) == 4
    card = (tmp_path / "out" / "README.md").read_text()
    assert student in card
    assert "(digits, 4 sampling steps)" in card
    assert card.count("200 updates on 12,800 images") == 2


def test_a_safetensors_export_becomes_the_same_checkpoint_elsewhere(
    store: Store, make_denoiser: MakeDenoiser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = publish(store, make_denoiser(), tmp_path)
    assert run(store, "export", student[:8], "--format", "safetensors", "--out", tmp_path / "out") == 0
    other = open_store(str(tmp_path / "other"))
    capsys.readouterr()
    assert run(other, "import", tmp_path / "out", "--name", "best", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"id": student, "name": "best", "kind": "student"}
    assert resolve_reference(other, "best").id == student


def test_a_changed_weight_is_refused_at_import(
    store: Store, make_denoiser: MakeDenoiser, tmp_path: Path
) -> None:
    student = publish(store, make_denoiser(), tmp_path)
    run(store, "export", student, "--format", "safetensors", "--out", tmp_path / "out")
    weights = tmp_path / "out" / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(LostInvariantError, match="is not the weights of"):
        run(open_store(str(tmp_path / "other")), "import", tmp_path / "out", "--name", "best")


def test_a_checkpoint_is_copied_from_another_store(
    store: Store, make_denoiser: MakeDenoiser, tmp_path: Path
) -> None:
    student = publish(store, make_denoiser(), tmp_path)
    other = open_store(str(tmp_path / "other"))
    assert run(other, "import", student[:8], "--from-store", store.uri, "--name", "copied") == 0
    copied = resolve_reference(other, "copied")
    assert copied == resolve_reference(store, student)
    assert fetch_weights(other, copied).read_bytes() == (tmp_path / "weights.safetensors").read_bytes()


def imported(store: Store, make_denoiser: MakeDenoiser, folder: Path) -> CheckpointManifest:
    """A diffusers folder, imported as `foreign`."""
    export_diffusers(make_denoiser(), folder / "diffusers")
    assert run(store, "import", folder / "diffusers", "--name", "foreign", "--dataset", "digits") == 0
    return resolve_reference(store, "foreign")


def test_a_diffusers_folder_becomes_an_imported_checkpoint(
    store: Store, make_denoiser: MakeDenoiser, tmp_path: Path
) -> None:
    pytest.importorskip("diffusers")
    manifest = imported(store, make_denoiser, tmp_path)
    assert manifest.identity.kind is CheckpointKind.IMPORTED
    assert manifest.identity.sampling_steps is None
    assert manifest.circumstances.dataset_name == "digits"
    expected = make_denoiser().config.model_dump(mode="json")
    expected["network"]["condition_channels"] = 64
    assert manifest.identity.architecture == expected


def test_importing_twice_gives_one_checkpoint(
    store: Store, make_denoiser: MakeDenoiser, tmp_path: Path
) -> None:
    pytest.importorskip("diffusers")
    first = imported(store, make_denoiser, tmp_path)
    run(store, "import", tmp_path / "diffusers", "--name", "again")
    assert resolve_reference(store, "again") == first


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--format", "diffusers", "--out", "."], "holds something already"),
        (["--format", "onnx", "--guidance", "2", "--out", "new"], "--guidance is for --format diffusers"),
        (["--format", "diffusers", "--guidance", "2", "--out", "new"], "guidance as an input"),
    ],
)
def test_wrong_export_options_are_explained(
    store: Store,
    make_denoiser: MakeDenoiser,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    complaint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    student = publish(store, make_denoiser(), tmp_path)
    with pytest.raises(UsageError, match=complaint):
        run(store, "export", student, *words)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("form", ["diffusers", "onnx", "safetensors"])
@pytest.mark.parametrize("out", ["/dev/null/x", "/proc/x", "file"])
def test_a_folder_that_cannot_be_made_is_one_message(
    make_denoiser: MakeDenoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    store = open_store("store")
    student = publish(store, make_denoiser(), tmp_path)
    with pytest.raises(UsageError, match=f"cannot write --out {out}: "):
        run(store, "export", student, "--format", form, "--out", out)


def test_a_store_to_copy_from_must_be_there(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no store at"):
        run(store, "import", "abcd", "--from-store", tmp_path / "tpyo", "--name", "best")


def test_a_model_that_diffusers_cannot_run_leaves_no_folder(
    store: Store, make_denoiser: MakeDenoiser, tmp_path: Path
) -> None:
    student = publish(store, make_denoiser(PredictionType.X_EPS), tmp_path)
    with pytest.raises(UsageError, match="prediction=v"):
        run(store, "export", student, "--format", "diffusers", "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("source", "name", "complaint"),
    [("owner/model", "best", "is no folder"), (".", "12345678", "reads as a checkpoint id")],
)
def test_wrong_import_options_are_explained(store: Store, source: str, name: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        run(store, "import", source, "--name", name)


def test_the_command_line_is_parsed_without_torch() -> None:
    code = "import sys, progdistill.commands.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_weights_of_an_import_are_float32(store: Store, make_denoiser: MakeDenoiser, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    weights = load_file(fetch_weights(store, imported(store, make_denoiser, tmp_path)))
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
