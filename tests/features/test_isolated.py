"""A network from a file can run code: only one that was asked for is opened, where there is nothing to take."""

import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from progdistill.config.presets import evaluation_settings
from progdistill.data.dataset import DatasetInfo
from progdistill.errors import UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.features.isolated import IsolatedNetwork, feature_count, problem_of_torchscript
from progdistill.features.manifest import EvaluatorIdentity, EvaluatorManifest, RecipeRecord
from progdistill.features.registry import KINDS, find_or_publish_evaluator
from progdistill.features.weights import FEATURES_VARIABLE, sha256_of
from progdistill.models_base import content_id
from progdistill.store.base import Store
from progdistill.store.documents import publish_record
from progdistill.store.layout import blob_key, evaluator_key, recipe_key
from progdistill.store.open import open_store
from progdistill.version import NUMERICS_VERSION

TORCHSCRIPT: dict[str, JsonValue] = {"name": "features_file", "format": "torchscript"}
BLANK = np.zeros((2, 1, 8, 8), np.uint8)


class Hostile(nn.Module):
    """Writes a file when it is used."""

    def __init__(self, victim: str) -> None:
        super().__init__()
        self.victim = victim

    def forward(self, images: Tensor) -> Tensor:
        written = torch.from_file(self.victim, shared=True, size=4, dtype=torch.float32).fill_(1.0)
        return images.flatten(1) + written[0]  # what nobody uses is not computed


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    return tmp_path / "victim"


@pytest.fixture
def hostile(tmp_path: Path, victim: Path) -> Path:
    path = tmp_path / "hostile.pt"
    torch.jit.script(Hostile(str(victim))).save(str(path))
    return path


def test_a_hostile_network_writes_files_where_it_is_opened_without_protection(hostile: Path, victim: Path) -> None:
    """What the other tests rest on."""
    torch.jit.load(str(hostile))(torch.zeros(1, 1, 8, 8))
    assert victim.exists()


def test_a_hostile_network_can_create_no_file(hostile: Path, victim: Path) -> None:
    network = IsolatedNetwork(hostile.read_bytes(), "hostile.pt", TORCHSCRIPT, "cpu")
    with pytest.raises(UsageError, match=r"hostile\.pt cannot be used"):
        network(BLANK)
    assert not victim.exists() or victim.stat().st_size == 0


def test_its_process_holds_no_credentials_and_ends_with_its_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = {"AWS_SECRET_ACCESS_KEY": "planted-secret", "DB_PASS": "planted-secret", "HF_TOKEN": "planted-secret"}
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    path, others = tmp_path / "flat.pt", children()
    torch.jit.script(nn.Flatten()).save(str(path))
    network = IsolatedNetwork(path.read_bytes(), "flat.pt", TORCHSCRIPT, "cpu", threads=1)
    assert network(BLANK)["features"].shape == (2, 64)
    (process,) = [pid for pid in children() if "isolated_process" in command_line(pid) and pid not in others]
    environment = Path(f"/proc/{process}/environ").read_bytes()
    assert b"planted-secret" not in environment and b"PATH=" in environment
    del network
    assert process not in children()


def children() -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == str(os.getpid()):
            found.append(entry.parent.name)
    return found


def command_line(pid: str) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")


def test_an_evaluator_that_somebody_planted_is_not_used(
    hostile: Path, victim: Path, digits: DatasetInfo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It stands where EfficientNet is looked for, and is a network from a file of a valid digest."""
    store = open_store(str(tmp_path / "store"))
    settings = EvaluationSettings(evaluator="efficientnet_lite0")
    asked = {**KINDS["efficientnet_lite0"].recipe(settings, digits), "numerics_version": NUMERICS_VERSION}
    planted = plant(store, hostile, asked)
    found = find_or_publish_evaluator(store, settings, digits)
    assert (found.identity.name, found.identity.recipe) == ("efficientnet_lite0", asked)
    assert found.id != planted and "ignored and replaced" in caplog.text
    assert not victim.exists()


def plant(store: Store, weights: Path, asked: dict[str, JsonValue]) -> str:
    recipe: dict[str, JsonValue] = {**TORCHSCRIPT, "weights_sha256": sha256_of(weights)}
    identity = EvaluatorIdentity(
        name="features_file",
        distance_name="frechet_efficientnet_lite0",
        weights=store.upload(weights, blob_key),
        recipe=recipe,
        numerics_version=NUMERICS_VERSION,
    )
    manifest = EvaluatorManifest(
        id=identity.id, identity=identity, test_accuracy=0.99, created_at=datetime.now(UTC), code_version="0"
    )
    publish_record(store, evaluator_key(manifest.id), manifest)
    publish_record(store, recipe_key(content_id(asked)), RecipeRecord(recipe=asked, evaluator_id=manifest.id))
    return manifest.id


def test_a_network_that_only_a_record_of_the_store_names_is_refused(
    digits: DatasetInfo, hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = sha256_of(hostile)
    recorded: dict[str, JsonValue] = {"evaluator": "features_file", "weights": str(hostile), "weights_sha256": digest}

    def settings_with(**changes: JsonValue) -> EvaluationSettings:
        return evaluation_settings(recorded, digits, sampling_steps=1, changes=changes)

    for changes in ({}, {"samples": 7}):
        with pytest.raises(UsageError, match="can run code: name the file in PROGDISTILL_FEATURES"):
            settings_with(**changes)
    assert settings_with(weights_sha256=digest).weights_sha256 == digest
    assert settings_with(weights=str(hostile)).weights == str(hostile)
    monkeypatch.setenv(FEATURES_VARIABLE, str(hostile))
    assert settings_with().weights_sha256 == digest
    other = tmp_path / "other.pt"
    other.write_bytes(b"another network")
    monkeypatch.setenv(FEATURES_VARIABLE, str(other))
    with pytest.raises(UsageError, match="can run code"):
        settings_with()
    assert (
        evaluation_settings({"evaluator": "inception"}, digits, sampling_steps=1, changes={}).evaluator == "inception"
    )
    with pytest.raises(UsageError, match="can run code: name the file in PROGDISTILL_INCEPTION"):
        evaluation_settings({"evaluator": "inception", "weights_sha256": digest}, digits, sampling_steps=1, changes={})


def saved(folder: Path, value: object, **how: bool) -> bytes:
    torch.save(value, folder / "saved", **how)
    return (folder / "saved").read_bytes()


def test_what_is_no_torchscript_is_told_apart_without_unpickling_it(tmp_path: Path) -> None:
    state = {"fc.weight": torch.zeros(2, 2)}
    told = {
        saved(tmp_path, state): "a state dict or another pickle of torch.save, not TorchScript",
        saved(tmp_path, state, _use_new_zipfile_serialization=False): "a pickle, not TorchScript",
        b"<html>403 Forbidden</html>": "an HTML page",
        b"\n<!doctype html>": "an HTML page",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n": "a pointer of Git LFS",
        b"": "empty",
        b"some text": "not TorchScript",
        saved(tmp_path, state)[:200]: "a damaged archive",
    }
    for data, what in told.items():
        with pytest.raises(UsageError, match=f"^a.pt is {what}"):
            feature_count(data, "a.pt", TORCHSCRIPT, (1, 8, 8))
    torch.jit.script(nn.Flatten()).save(str(tmp_path / "flat.pt"))
    assert problem_of_torchscript((tmp_path / "flat.pt").read_bytes()) is None


def test_a_network_for_other_images_is_noticed_with_one_blank_image(tmp_path: Path) -> None:
    path = tmp_path / "color.pt"
    torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())).save(str(path))
    with pytest.raises(UsageError, match=r"color\.pt cannot be used: .*channels") as refused:
        feature_count(path.read_bytes(), "color.pt", TORCHSCRIPT, (1, 8, 8))
    assert "\n" not in str(refused.value)
