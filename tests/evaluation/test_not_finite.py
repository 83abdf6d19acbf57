"""Samples that are NaN are not measured: as pixels they would be zeros, and would have a distance."""

from pathlib import Path

import pytest

from progdistill.cli.main import main
from progdistill.data.dataset import DatasetInfo
from progdistill.errors import LostInvariantError
from progdistill.evaluation.config import EvaluationSettings
from progdistill.evaluation.evaluate import evaluate_checkpoint
from progdistill.registry.checkpoint import CheckpointManifest
from progdistill.store.base import Store
from tests.evaluation.conftest import publish

SETTINGS = EvaluationSettings(samples=20, batch_size=10)


@pytest.fixture(scope="module")
def broken(evaluated_store: Store, digits: DatasetInfo, tmp_path_factory: pytest.TempPathFactory) -> CheckpointManifest:
    return publish(evaluated_store, tmp_path_factory.mktemp("broken"), digits, seed=2, broken=True)


@pytest.mark.parametrize("place", ["measured", "baseline"])
def test_an_evaluation_stops_with_the_checkpoint_and_the_sampler(
    place: str, evaluated_store: Store, broken: CheckpointManifest, student: CheckpointManifest, digits: DatasetInfo
) -> None:
    measured, baseline = (broken, None) if place == "measured" else (student, broken)
    with pytest.raises(LostInvariantError, match=rf"{broken.id[:12]} produced.* not finite.* 0 to 9 with ddim × 2"):
        evaluate_checkpoint(evaluated_store, measured, baseline, 2, SETTINGS, digits)
    assert not list(evaluated_store.list(f"evaluations/{broken.id}/"))


@pytest.mark.parametrize("ending", ["png", "parquet"])
@pytest.mark.parametrize("sampler", ["ddim", "ancestral", "rk4"])
def test_sample_says_so_and_writes_nothing(
    sampler: str,
    ending: str,
    evaluated_store: Store,
    broken: CheckpointManifest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--count", "2", "--steps", "2", "--sampler", sampler, "--store", evaluated_store.uri]
    assert main(["sample", broken.id, *options, "--out", str(tmp_path / f"x.{ending}")]) == 3
    assert f"checkpoint {broken.id[:12]} produced values that are not finite" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
