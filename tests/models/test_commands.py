"""`progdistill export` and `progdistill import`, and the model card's instructions."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from progdistill.diffusion.names import PredictionType
from progdistill.errors import LostInvariantError, UsageError
from progdistill.models.diffusers_export import export_diffusers
from progdistill.registry.aliases import read_alias
from progdistill.registry.checkpoint import (
    CheckpointKind,
    CheckpointManifest,
    fetch_weights,
    list_ids,
    list_manifests,
    load_manifest,
)
from progdistill.registry.resolve import resolve_reference
from progdistill.store.base import Store
from progdistill.store.open import open_store
from tests.models.command_line import follow_card, publish, run
from tests.models.conftest import MakeDenoiser


@pytest.mark.parametrize("num_classes", [0, 10])
def test_the_card_of_a_diffusers_export_shows_how_to_draw(
    store: Store, make_denoiser: MakeDenoiser, tmp_path: Path, num_classes: int
) -> None:
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


def test_a_changed_weight_is_refused_at_import(store: Store, make_denoiser: MakeDenoiser, tmp_path: Path) -> None:
    student = publish(store, make_denoiser(), tmp_path)
    run(store, "export", student, "--format", "safetensors", "--out", tmp_path / "out")
    weights = tmp_path / "out" / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(LostInvariantError, match="is not the weights of"):
        run(open_store(str(tmp_path / "other")), "import", tmp_path / "out", "--name", "best")


def test_an_exported_folder_without_its_weights_is_one_message(
    store: Store, make_denoiser: MakeDenoiser, tmp_path: Path
) -> None:
    student = publish(store, make_denoiser(), tmp_path)
    run(store, "export", student, "--format", "safetensors", "--out", tmp_path / "out")
    (tmp_path / "out" / "weights.safetensors").unlink()
    with pytest.raises(UsageError, match=r"there is no .*weights\.safetensors, the weights of"):
        run(store, "import", tmp_path / "out", "--name", "half")


def test_a_checkpoint_is_copied_from_another_store(store: Store, make_denoiser: MakeDenoiser, tmp_path: Path) -> None:
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
    manifest = imported(store, make_denoiser, tmp_path)
    assert manifest.identity.kind is CheckpointKind.IMPORTED
    assert manifest.identity.sampling_steps is None
    assert manifest.provenance.dataset_name == "digits"
    expected = make_denoiser().config.model_dump(mode="json")
    expected["network"]["condition_channels"] = 64
    assert manifest.identity.architecture == expected


def test_importing_twice_gives_one_checkpoint(store: Store, make_denoiser: MakeDenoiser, tmp_path: Path) -> None:
    first = imported(store, make_denoiser, tmp_path)
    for name, words in (("again", ()), ("once-more", ("--dataset", "digits"))):
        assert run(store, "import", tmp_path / "diffusers", "--name", name, *words) == 0
        assert resolve_reference(store, name) == first


def test_another_dataset_than_the_first_time_is_refused(
    store: Store, make_denoiser: MakeDenoiser, tmp_path: Path
) -> None:
    """The checkpoint is the same, and its first manifest stays: the new name would have no effect."""
    first = imported(store, make_denoiser, tmp_path)
    with pytest.raises(UsageError, match=f"dataset digits, .*`--from {first.id[:12]} --dataset flowers`"):
        run(store, "import", tmp_path / "diffusers", "--name", "other", "--dataset", "flowers")
    assert load_manifest(store, first.id) == first
    assert read_alias(store, "other") is None


def test_a_recorded_dataset_is_not_renamed_at_import(store: Store, make_denoiser: MakeDenoiser, tmp_path: Path) -> None:
    student = publish(store, make_denoiser(), tmp_path)
    run(store, "export", student, "--format", "safetensors", "--out", tmp_path / "out")
    other = open_store(str(tmp_path / "other"))
    for source in ((tmp_path / "out",), (student, "--from-store", store.uri)):
        with pytest.raises(UsageError, match="with dataset digits, which stays"):
            run(other, "import", *source, "--name", "best", "--dataset", "flowers")
    assert not list_ids(other)
    assert run(other, "import", tmp_path / "out", "--name", "best", "--dataset", "digits") == 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--format", "diffusers", "--out", "."], "is not empty"),
        (["--format", "onnx", "--guidance-scale", "2", "--out", "new"], "is for --format diffusers"),
        (["--format", "diffusers", "--guidance-scale", "2", "--out", "new"], "cannot be guided"),
        (
            ["--format", "diffusers", "--guidance-scale", "-3", "--out", "new"],
            "guidance scale -3: give a number from 1",
        ),
        (["--format", "diffusers", "--guidance-scale", "nan", "--out", "new"], "guidance scale nan: give a number"),
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


def guided_export(store: Store, student: str, folder: Path, *words: str) -> dict[str, Tensor]:
    """The U-Net's weights in a diffusers export of a guided student."""
    assert run(store, "export", student, "--format", "diffusers", "--out", folder, *words) == 0
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def test_a_guided_student_is_exported_at_the_scale_that_it_is_sampled_with(
    store: Store, make_denoiser: MakeDenoiser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lowest that it was trained with, or what --guidance-scale says."""
    student = publish(store, make_denoiser(guidance_input=True), tmp_path)
    found = guided_export(store, student, tmp_path / "default")
    assert "with guidance scale 2 built in" in capsys.readouterr().out
    least = guided_export(store, student, tmp_path / "least", "--guidance-scale", "2")
    most = guided_export(store, student, tmp_path / "most", "--guidance-scale", "5")
    assert all(torch.equal(found[name], weights) for name, weights in least.items())
    bias = "time_embedding.linear_1.bias"
    assert not torch.equal(found[bias], most[bias])
    for folder, scale in (("default", 2), ("most", 5)):
        assert f"guidance scale {scale} is built in" in (tmp_path / folder / "README.md").read_text()
    assert "note" not in capsys.readouterr().err


def test_a_scale_that_a_student_was_not_trained_with_is_noted_at_export(
    store: Store, make_denoiser: MakeDenoiser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = publish(store, make_denoiser(guidance_input=True), tmp_path)
    guided_export(store, student, tmp_path / "out", "--guidance-scale", "9", "--json")
    out, err = capsys.readouterr()
    assert f"{student[:12]} was trained with guidance scales 2:5, not 9" in err
    assert json.loads(out)["guidance_scale"] == 9


def test_a_model_guided_by_two_questions_has_nowhere_to_build_a_scale_into(
    store: Store, make_denoiser: MakeDenoiser, tmp_path: Path
) -> None:
    publish(store, make_denoiser(label_dropout=True), tmp_path)
    (base,) = [m.id for m in list_manifests(store) if m.identity.kind is CheckpointKind.BASE]
    with pytest.raises(UsageError, match="guidance as an input"):
        run(store, "export", base, "--format", "diffusers", "--guidance-scale", "2", "--out", tmp_path / "new")


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
    [("owner/model", "best", "does not exist"), (".", "12345678", "reads as a checkpoint id")],
)
def test_wrong_import_options_are_explained(store: Store, source: str, name: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        run(store, "import", source, "--name", name)


def test_the_command_line_is_parsed_without_torch() -> None:
    code = "import sys, progdistill.cli.import_export; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_weights_of_an_import_are_float32(store: Store, make_denoiser: MakeDenoiser, tmp_path: Path) -> None:
    weights = load_file(fetch_weights(store, imported(store, make_denoiser, tmp_path)))
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
