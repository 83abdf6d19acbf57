"""A run's requirements are checked before it starts."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from progdistill.cli.main import main
from progdistill.config.options import RunOptions
from progdistill.data.dataset import default_data_root, find_dataset
from progdistill.errors import UsageError
from progdistill.features.weights import sha256_of
from progdistill.run.prepare import PreparedRun, prepare_run
from progdistill.store.open import open_store
from progdistill.training.accelerators import Accelerators
from tests.evaluation.conftest import publish


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("PROGDISTILL_DATA", "PROGDISTILL_STORE", "PROGDISTILL_INCEPTION", "PROGDISTILL_FEATURES"):
        monkeypatch.delenv(name, raising=False)


def prepared(*assignments: str) -> PreparedRun:
    return prepare_run(RunOptions(set=assignments))


def test_fid_without_inceptions_weights_is_refused_with_the_file_to_fetch() -> None:
    with pytest.raises(UsageError, match=r"inception-2015-12-05\.pt.*evaluation\.evaluator="):
        prepared("evaluation.evaluator=inception")


def test_weights_that_are_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.pt is not a file"):
        prepared("evaluation.evaluator=inception", f"evaluation.weights={tmp_path}/nowhere.pt")


def test_a_features_file_is_pinned_by_its_digest_and_statistics_must_have_its_features(tmp_path: Path) -> None:
    file, statistics = tmp_path / "features.pt", tmp_path / "statistics.npz"
    torch.jit.script(nn.Flatten()).save(str(file))
    named = ("evaluation.evaluator=features_file", f"evaluation.weights={file}")
    run = prepared(*named)
    assert run.settings.evaluation.weights_sha256 == sha256_of(file)
    np.savez(statistics, mu=np.zeros(63), sigma=np.eye(63))
    with pytest.raises(UsageError, match=r"statistics\.npz has 63 features, but features_file has 64"):
        prepared(*named, f"evaluation.reference_statistics={statistics}")


@pytest.mark.parametrize("evaluator", ["features_file", "inception"])
def test_a_file_that_is_no_network_is_refused_before_anything_is_trained(evaluator: str, tmp_path: Path) -> None:
    file = tmp_path / "pt_inception.pth"
    torch.save({"fc.weight": torch.zeros(2, 2)}, file)
    named = (f"evaluation.evaluator={evaluator}", f"evaluation.weights={file}")
    with pytest.raises(UsageError, match=r"pt_inception\.pth is a state dict or another pickle of torch\.save"):
        prepared(*named, f"evaluation.weights_sha256={sha256_of(file)}")


def test_evaluate_refuses_it_before_anything_is_sampled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(str(tmp_path / "store"))
    manifest = publish(store, tmp_path, find_dataset("digits", default_data_root()), seed=0)
    page = tmp_path / "page.pt"
    page.write_text("<html>403 Forbidden</html>")
    named = ["--inception-weights", str(page), "--inception-sha256", sha256_of(page)]
    words = ["evaluate", manifest.id, "--sampling-steps", "1", "--samples", "20", "--store", store.uri, *named]
    assert main(words) == 2
    assert "page.pt is an HTML page, such as a failed download leaves" in capsys.readouterr().err
    assert list(store.list("evaluators/")) == []


@pytest.mark.parametrize("training", ["base", "distill"])
def test_mirroring_images_that_have_a_right_way_round_is_refused_before_the_run(training: str) -> None:
    with pytest.raises(UsageError, match=rf"digits change meaning.*--set {training}\.horizontal_flip=false"):
        prepared(f"{training}.horizontal_flip=true")


def test_an_evaluator_that_does_not_fit_the_images_is_refused(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(4):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(images / f"{number}.png")
    assert main(["data", "prepare", "red", "--source", str(images), "--image-size", "32"]) == 0
    with pytest.raises(UsageError, match=r"digits_classifier needs.*red has"):
        prepare_run(RunOptions(dataset="red", set=("evaluation.evaluator=digits_classifier",)))


@pytest.fixture
def inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Settings with which nothing but the reference statistics can be wrong."""
    (tmp_path / "inception-2015-12-05.pt").write_bytes(b"a network")
    monkeypatch.setenv("PROGDISTILL_INCEPTION", str(tmp_path / "inception-2015-12-05.pt"))
    # It stands for the official file, which its digest tells and which is not run at the start.
    official = sha256_of(tmp_path / "inception-2015-12-05.pt")
    monkeypatch.setattr("progdistill.features.weights.INCEPTION_SHA256", official)
    return "evaluation.evaluator=inception"


def test_published_statistics_of_cifar10_are_accepted(inception: str, tmp_path: Path) -> None:
    """In the form of clean-fid's `cifar10_legacy_tensorflow_train_32.npz`, and of the original FID's file."""
    for name, dtype in (("cifar10_legacy_tensorflow_train_32", "float64"), ("fid_stats_cifar10", "float32")):
        file = tmp_path / f"{name}.npz"
        np.savez(file, mu=np.zeros(2048, dtype), sigma=np.eye(2048, dtype=dtype))
        run = prepared(inception, f"evaluation.reference_statistics={file}")
        assert run.settings.evaluation.reference_statistics_sha256 is not None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (None, r"nowhere\.npz is not a file.*evaluation\.reference_statistics"),
        ({"mu": np.zeros(64), "sigma": np.eye(64)}, r"64 features, but inception has 2048"),
        ({"mu": np.zeros(2048)}, r"is not a file of reference statistics.*mu and sigma"),
        ({"mu": np.zeros(2048), "sigma": np.eye(64)}, r"is not a file of reference statistics.*\(64, 64\)"),
        ({"mu": np.full(2048, np.nan), "sigma": np.eye(2048)}, "not all numbers are finite"),
    ],
)
def test_other_statistics_are_refused_before_anything_is_trained(
    arrays: dict[str, np.ndarray] | None, words: str, inception: str, tmp_path: Path
) -> None:
    file = tmp_path / "nowhere.npz"
    if arrays is not None:
        file = tmp_path / "statistics.npz"
        np.savez(file, **arrays)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=words):
        prepared(inception, f"evaluation.reference_statistics={file}")


def test_a_file_that_is_no_archive_is_refused(inception: str, tmp_path: Path) -> None:
    (tmp_path / "page.npz").write_text("<html>not found</html>")
    with pytest.raises(UsageError, match="is not a file of reference statistics"):
        prepared(inception, f"evaluation.reference_statistics={tmp_path}/page.npz")


def test_a_batch_that_ranks_cannot_share_evenly_is_refused() -> None:
    with pytest.raises(UsageError, match=r"distill\.batch_size = 64 .* by 3 ranks"):
        prepared("compute.world_size=3", "base.batch_size=63")


def test_a_secret_has_no_place_among_the_variables_of_pods() -> None:
    with pytest.raises(UsageError, match="AWS_SECRET_ACCESS_KEY looks like a secret"):
        prepared('cluster.env={"AWS_SECRET_ACCESS_KEY": "x"}')


@pytest.mark.parametrize("device", ["cuda", "tpu"])
def test_a_device_that_this_machine_has_not_is_refused_before_the_run(
    device: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("progdistill.run.prepare.accelerators_here", lambda: Accelerators("cpu", 0))
    monkeypatch.setitem(sys.modules, "torch_tpu", None)  # Python's own mark of a module that is not there
    assert main(["plan", "--set", f"compute.device={device}"]) == 2
    assert f"error: compute.device={device}" in capsys.readouterr().err


def test_a_device_that_this_machine_has_is_taken_without_asking_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("progdistill.run.prepare.accelerators_here", lambda: Accelerators("cuda", 1))
    monkeypatch.setitem(sys.modules, "progdistill.training.devices", None)
    assert prepared("compute.device=cuda").settings.compute.device == "cuda"


def test_a_flow_in_pods_may_name_a_device_that_only_later_steps_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGO_WORKFLOW_TEMPLATE", "distillflow")
    monkeypatch.setattr("progdistill.run.prepare.accelerators_here", lambda: Accelerators("cpu", 0))
    assert prepared("compute.device=cuda").settings.compute.device == "cuda"
