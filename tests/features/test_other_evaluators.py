"""Evaluators without Inception: their distances are never called FID."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from progdistill.data.dataset import DatasetInfo
from progdistill.errors import UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.features.base import FeatureExtractor
from progdistill.features.registry import find_or_publish_evaluator, open_evaluator
from progdistill.features.weights import pinned, sha256_of
from progdistill.store.base import Store
from progdistill.store.open import open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def _open(store: Store, info: DatasetInfo, **settings: object) -> FeatureExtractor:
    chosen = EvaluationSettings.model_validate(settings)
    return open_evaluator(store, find_or_publish_evaluator(store, chosen, info))


def test_efficientnet_knows_a_red_square_from_noise(store: Store, digits: DatasetInfo) -> None:
    color = digits.model_copy(update={"channels": 3, "image_size": 32})
    evaluator = _open(store, color, evaluator="efficientnet_lite0")
    noise = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    red = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    red[:, 0] = 200
    seen = evaluator.extract(torch.cat((red, noise)))
    assert seen.features.shape == (4, 1280)
    assert seen.probabilities is not None
    assert seen.probabilities.shape == (4, 1000)
    torch.testing.assert_close(seen.features[0], seen.features[1])
    assert (seen.features[0] - seen.features[2]).norm() > (seen.features[2] - seen.features[3]).norm() * 0.5
    assert evaluator.manifest.identity.distance_name == "frechet_efficientnet_lite0"


def test_features_come_from_any_torchscript_file(store: Store, digits: DatasetInfo, tmp_path: Path) -> None:
    path = tmp_path / "corner.pt"
    torch.jit.script(nn.Sequential(nn.AvgPool2d(4), nn.Flatten())).save(str(path))
    evaluator = _open(store, digits, evaluator="features_file", weights=str(path))
    images = torch.full((3, 1, 8, 8), 40, dtype=torch.uint8)
    torch.testing.assert_close(evaluator.extract(images).features, torch.full((3, 4), 40.0))
    assert evaluator.extract(images).probabilities is None
    assert evaluator.manifest.identity.distance_name == "frechet_corner"


def test_features_come_from_any_onnx_file(store: Store, digits: DatasetInfo, tmp_path: Path) -> None:
    evaluator = _open(store, digits, evaluator="features_file", weights=str(_flatten_onnx(tmp_path)))
    images = torch.arange(128, dtype=torch.uint8).view(2, 1, 8, 8)
    torch.testing.assert_close(evaluator.extract(images).features, images.float().view(2, 64))


@pytest.mark.parametrize("stated", [False, True])
def test_a_file_that_the_environment_names_has_the_format_of_its_name(
    stated: bool, store: Store, digits: DatasetInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _flatten_onnx(tmp_path)
    monkeypatch.setenv("PROGDISTILL_FEATURES", str(path))
    digest = sha256_of(path) if stated else None
    settings = pinned(EvaluationSettings(evaluator="features_file", weights_sha256=digest))
    assert (settings.weights, settings.weights_sha256) == (str(path), sha256_of(path))
    unpinned = find_or_publish_evaluator(
        store, EvaluationSettings(evaluator="features_file", weights_sha256=digest), digits
    )
    assert unpinned.identity.recipe["format"] == "onnx"
    monkeypatch.delenv("PROGDISTILL_FEATURES")
    path.unlink()
    evaluator = open_evaluator(store, find_or_publish_evaluator(store, settings, digits))
    images = torch.arange(128, dtype=torch.uint8).view(2, 1, 8, 8)
    torch.testing.assert_close(evaluator.extract(images).features, images.float().view(2, 64))


def test_a_digest_alone_finds_a_torchscript_network_in_the_store(
    store: Store, digits: DatasetInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As runs have recorded it whose file the environment named."""
    path = tmp_path / "corner.pt"
    torch.jit.script(nn.Sequential(nn.AvgPool2d(4), nn.Flatten())).save(str(path))
    monkeypatch.setenv("PROGDISTILL_FEATURES", str(path))
    settings = EvaluationSettings(evaluator="features_file", weights_sha256=sha256_of(path))
    published = find_or_publish_evaluator(store, settings, digits)
    monkeypatch.delenv("PROGDISTILL_FEATURES")
    assert find_or_publish_evaluator(store, settings, digits) == published


def test_once_in_the_store_a_pinned_file_is_needed_no_more(store: Store, digits: DatasetInfo, tmp_path: Path) -> None:
    path = _flatten_onnx(tmp_path)
    settings = pinned(EvaluationSettings(evaluator="features_file", weights=str(path)))
    published = find_or_publish_evaluator(store, settings, digits)
    path.unlink()
    assert find_or_publish_evaluator(store, settings, digits) == published


def test_a_file_that_is_not_there_is_named(store: Store, digits: DatasetInfo, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.pt is not a file"):
        _open(store, digits, evaluator="features_file", weights=str(tmp_path / "missing.pt"))


def _flatten_onnx(folder: Path) -> Path:
    shape = numpy_helper.from_array(np.array([0, -1]), "shape")
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["images", "shape"], ["features"])],
        "flatten",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 64])],
        [shape],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "flatten.onnx"
    onnx.save(model, str(path))
    return path
