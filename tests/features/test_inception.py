"""FID with a given weights file, against clean-fid's pipeline on the same file and images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from progdistill.data.dataset import DatasetInfo
from progdistill.errors import LostInvariantError, UsageError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.metrics import frechet_distance, inception_score, moments_of, score_sums
from progdistill.features.base import FeatureExtractor
from progdistill.features.registry import find_or_publish_evaluator, open_evaluator
from progdistill.features.weights import sha256_of
from progdistill.store.base import Store
from progdistill.store.open import open_store
from tests.features.inception_file import write_small_inception

MODES = ["legacy_tensorflow", "clean"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_inception(tmp_path_factory.mktemp("inception"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(str(tmp_path_factory.mktemp("store")))


def _settings(mode: str, weights: Path | None, sha256: str | None) -> EvaluationSettings:
    return EvaluationSettings.model_validate(
        {
            "evaluator": "inception",
            "inception_mode": mode,
            "weights": None if weights is None else str(weights),
            "weights_sha256": sha256,
        }
    )


_opened: dict[str, FeatureExtractor] = {}


def _open(store: Store, mode: str, weights: Path, digits: DatasetInfo) -> FeatureExtractor:
    """Open an evaluator once: each runs in a process of its own."""
    if mode not in _opened:
        settings = _settings(mode, weights, sha256_of(weights))
        _opened[mode] = open_evaluator(store, find_or_publish_evaluator(store, settings, digits))
    return _opened[mode]


def _images(count: int, seed: int) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    return torch.from_numpy(pixels)


@pytest.mark.parametrize("mode", MODES)
def test_features_are_those_of_clean_fids_pipeline(
    mode: str, weights: Path, store: Store, digits: DatasetInfo, tmp_path: Path
) -> None:
    from cleanfid.fid import get_folder_features
    from cleanfid.inception_torchscript import InceptionV3W

    images = _images(6, 0)
    for index, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    network = InceptionV3W(str(weights.parent), download=False, resize_inside=mode == "legacy_tensorflow")
    expected = get_folder_features(
        str(tmp_path), network, num_workers=0, device=torch.device("cpu"), mode=mode, verbose=False
    )
    seen = _open(store, mode, weights, digits).extract(images)
    np.testing.assert_allclose(seen.features.detach(), expected, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_the_distance_is_clean_fids(mode: str, weights: Path, store: Store, digits: DatasetInfo) -> None:
    """On eight features, for clean-fid's matrix square root takes half a minute at 2048."""
    from cleanfid.fid import frechet_distance as clean_fid_distance

    observe = _open(store, mode, weights, digits).extract
    first, second = (observe(_images(40, seed)).features[:, :8].detach() for seed in (1, 2))
    a, b = moments_of(first), moments_of(second)
    expected = clean_fid_distance(
        first.double().numpy().mean(0),
        np.cov(first.double().numpy(), rowvar=False),
        second.double().numpy().mean(0),
        np.cov(second.double().numpy(), rowvar=False),
    )
    assert frechet_distance(a.mean, a.covariance, b.mean, b.covariance) == pytest.approx(expected, rel=1e-6)


def test_the_score_leaves_out_the_bias_of_the_softmax_layer(weights: Path, store: Store, digits: DatasetInfo) -> None:
    images = _images(10, 3)
    network = torch.jit.load(str(weights))
    expected = inception_score(score_sums(network(images.float(), no_output_bias=True).detach()))
    seen = _open(store, "legacy_tensorflow", weights, digits).extract(images)
    assert seen.probabilities is not None
    assert inception_score(score_sums(seen.probabilities.detach())) == pytest.approx(expected, rel=1e-6)


def test_both_modes_are_evaluators_of_their_own_name(weights: Path, store: Store, digits: DatasetInfo) -> None:
    names = [_open(store, mode, weights, digits).manifest.identity.distance_name for mode in MODES]
    assert names == ["fid_legacy_tensorflow", "fid_clean"]


def test_once_in_the_store_the_file_is_needed_no_more(weights: Path, store: Store, digits: DatasetInfo) -> None:
    known = _open(store, "clean", weights, digits).manifest
    assert find_or_publish_evaluator(store, _settings("clean", None, sha256_of(weights)), digits) == known


def test_the_environment_names_the_file_too(
    weights: Path, tmp_path: Path, digits: DatasetInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROGDISTILL_INCEPTION", f"file://{weights}")
    fresh = open_store(str(tmp_path / "store"))
    manifest = find_or_publish_evaluator(fresh, _settings("clean", None, sha256_of(weights)), digits)
    assert manifest.identity.name == "inception"


def test_without_weights_the_message_says_which_file_to_fetch(
    tmp_path: Path, digits: DatasetInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PROGDISTILL_INCEPTION", raising=False)
    with pytest.raises(UsageError, match=r"inception-2015-12-05\.pt .*SHA-256 f58cb9b6.*PROGDISTILL_INCEPTION"):
        find_or_publish_evaluator(open_store(str(tmp_path)), _settings("clean", None, None), digits)


def test_another_file_than_the_official_one_is_refused(weights: Path, tmp_path: Path, digits: DatasetInfo) -> None:
    with pytest.raises(LostInvariantError, match="expected f58cb9b6"):
        find_or_publish_evaluator(open_store(str(tmp_path)), _settings("clean", weights, None), digits)
