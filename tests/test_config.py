"""Options become settings; what cannot be is one message that says what to do."""

from pathlib import Path

import pytest

from progdistill.config import settings_from
from progdistill.data.dataset import DatasetInfo
from progdistill.errors import UsageError
from progdistill.ladder import parse_ladder
from progdistill.options import RunOptions, parse_run_options


def test_a_ladder_halves_from_start_to_end() -> None:
    assert parse_ladder("64:1") == (64, 32, 16, 8, 4, 2, 1)
    assert parse_ladder("64:1:4") == (64, 16, 4, 1)
    assert len(parse_ladder("8192:1")) == 14


@pytest.mark.parametrize("text", ["63:1", "1:64", "8,16", "a:1", "64:1:3", "0:0", "8", "8:3"])
def test_other_ladders_are_refused_with_the_ladder_named(text: str) -> None:
    with pytest.raises(UsageError, match=text):
        parse_ladder(text)


def test_set_reaches_any_field() -> None:
    settings = settings_from(RunOptions(set=("distill.learning_rate=0.5", "evaluation.samples=7")))
    assert (settings.distill.learning_rate, settings.evaluation.samples) == (0.5, 7)


def test_an_unknown_path_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"distill\.learning_rate"):
        settings_from(RunOptions(set=("distill.learning_rat=1",)))


def test_a_value_out_of_range_names_field_and_value() -> None:
    with pytest.raises(UsageError, match=r"base\.updates = -1"):
        settings_from(RunOptions(set=("base.updates=-1",)))


def test_the_papers_unstable_combination_is_refused() -> None:
    with pytest.raises(UsageError, match="Table 1"):
        settings_from(RunOptions(set=("model.prediction=eps", "base.loss_weight=truncated_snr")))


def test_options_of_others_on_the_line_are_left_alone() -> None:
    options = parse_run_options(["--max-workers", "3", "--ladder", "8:1", "--set", "a=1", "--set", "b=2"])
    assert (options.ladder, options.set) == ("8:1", ("a=1", "b=2"))


def test_what_is_typed_comes_after_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("progdistill.toml").write_text('seed = 3\n[set]\n"base.updates" = 7\n"distill.updates" = 7\n')
    settings = settings_from(parse_run_options(["--set", "base.updates=9"]))
    assert (settings.seed, settings.base.updates, settings.distill.updates) == (3, 9, 7)


def dataset_of(name: str, size: int, channels: int = 3, classes: int = 5, flips: bool = True) -> DatasetInfo:
    return DatasetInfo(
        name=name,
        location="/data",
        fingerprint="0" * 64,
        channels=channels,
        image_size=size,
        num_classes=classes,
        class_names=tuple(map(str, range(classes))),
        splits={"train": 10},
        horizontal_flip_safe=flips,
    )


def test_ones_own_dataset_gets_the_preset_of_its_size_made_to_fit() -> None:
    settings = settings_from(RunOptions(dataset="flowers"), dataset_of("flowers", 64, flips=False))
    network = settings.model.network
    assert (settings.preset, network.image_size, network.num_classes) == ("imagenet64", 64, 5)
    assert network.image_channels == 3 and not settings.distill.horizontal_flip
    assert settings_from(RunOptions(), dataset_of("flowers", 64)).distill.horizontal_flip


@pytest.mark.parametrize(("name", "preset"), [("letters", "cifar10"), ("letters", None), ("cifar10", None)])
def test_no_preset_mirrors_images_that_have_a_right_way_round(name: str, preset: str | None) -> None:
    options = RunOptions(dataset=name, preset=preset)
    for safe in (True, False):
        settings = settings_from(options, dataset_of(name, 32, classes=10, flips=safe))
        assert settings.base.horizontal_flip is settings.distill.horizontal_flip is safe


def test_images_of_a_size_without_a_preset_are_refused_with_advice() -> None:
    with pytest.raises(UsageError, match=r"48×48 images of flowers.*--image-size"):
        settings_from(RunOptions(dataset="flowers"), dataset_of("flowers", 48))


def test_students_of_an_eps_model_predict_v() -> None:
    settings = settings_from(RunOptions(set=("model.prediction=eps",)))
    assert settings.student_prediction == "v"


def test_the_files_settings_stay_where_no_typed_one_replaces_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("progdistill.toml").write_text(
        '[set]\n"evaluation.samples" = 7\n"cluster.env" = {A = "b"}\n"cluster.use_jobset" = true\n'
    )
    settings = settings_from(parse_run_options(["--set", "evaluation.samples=8"]))
    assert settings.evaluation.samples == 8
    assert settings.cluster.env == {"A": "b"} and settings.cluster.use_jobset
