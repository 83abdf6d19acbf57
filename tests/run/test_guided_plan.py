"""`--guidance-scale` from option to plan, and refusals before anything starts."""

from pathlib import Path

import pytest

from progdistill.cli.main import main
from progdistill.config.options import RunOptions
from progdistill.config.presets import PRESETS
from progdistill.config.settings import settings_from
from progdistill.data.dataset import DatasetInfo
from progdistill.errors import UsageError
from progdistill.models.config import ARCHITECTURES, DenoiserConfig
from progdistill.registry.checkpoint import CheckpointKind
from progdistill.run.prepare import PreparedRun, prepare_run
from progdistill.store.base import Store
from progdistill.training.guidance import GuidanceRange
from tests.jobs.conftest import publish

DIGITS = PRESETS["digits"].model
LEARNED = {"guidance_scale": {"lowest": 1.0, "highest": 3.0}}


def with_network(**changes: object) -> DenoiserConfig:
    return DIGITS.model_copy(update={"network": DIGITS.network.model_copy(update=changes)})


@pytest.fixture(autouse=True)
def _data(data_root: Path, digits: DatasetInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROGDISTILL_DATA", str(data_root))


def plan(store: Store, **options: object) -> PreparedRun:
    return prepare_run(RunOptions.model_validate({"store": store.uri, "dataset": "digits", **options}))


def test_a_guided_run_drops_labels_and_has_one_stage_more(store: Store) -> None:
    plain, guided = plan(store), plan(store, guidance_scale="1:5")
    assert guided.settings.guidance_scale == GuidanceRange(lowest=1, highest=5)
    assert guided.settings.label_dropout == 0.1 and plain.settings.label_dropout == 0
    assert guided.settings.model.network.label_dropout and not plain.settings.model.network.label_dropout
    assert (plain.facts()["stages"], guided.facts()["stages"]) == (6, 7)
    assert "with guidance scales 1:5" in guided.describe() and "guidance" not in plain.describe()


def test_labels_are_dropped_on_request_without_guidance_too() -> None:
    settings = settings_from(RunOptions(set=("base.label_dropout=0.2",)))
    assert settings.label_dropout == 0.2 and settings.model.network.label_dropout
    assert settings.guidance_scale is None and not settings.has_guided_stage


def test_a_weight_to_measure_with_needs_students_that_learn_one(store: Store) -> None:
    run = plan(store, guidance_scale="1:5", set=("evaluation.guidance_scale=2",))
    assert run.settings.evaluation.guidance_scale == 2
    with pytest.raises(UsageError, match="students of this run are not guided by it"):
        plan(store, set=("evaluation.guidance_scale=2",))


def test_the_guided_stage_can_have_updates_of_its_own(store: Store) -> None:
    fewer = plan(store, guidance_scale="1:5", set=("distill.guidance_updates=5",))
    more = plan(store, guidance_scale="1:5", set=("distill.guidance_updates=1005",))
    given = [run.facts()["distillation_updates"] for run in (fewer, more)]
    assert isinstance(given[0], int) and isinstance(given[1], int) and given[1] - given[0] == 1000


def test_students_of_a_guided_model_keep_its_range(store: Store) -> None:
    config = with_network(label_dropout=True, guidance_input=True)
    teacher = publish(store, config, CheckpointKind.STUDENT, sampling_steps=8, training=LEARNED)
    run = plan(store, start_from=teacher.id)
    assert run.settings.guidance_scale == GuidanceRange(lowest=1, highest=3)
    assert not run.settings.has_guided_stage and run.settings.ladder == (8, 4, 2, 1)
    again = plan(store, start_from=teacher.id, guidance_scale="1:3")
    assert again.settings.guidance_scale == run.settings.guidance_scale
    with pytest.raises(UsageError, match="with guidance scales 1:3, which its students keep"):
        plan(store, start_from=teacher.id, guidance_scale="1:5")


def test_a_run_from_a_base_model_with_dropped_labels_distills_guidance_first(store: Store) -> None:
    teacher = publish(store, with_network(label_dropout=True))
    assert plan(store, start_from=teacher.id, guidance_scale="2:4").settings.has_guided_stage


@pytest.mark.parametrize(
    ("config", "kind", "words"),
    [
        (with_network(), CheckpointKind.BASE, "trained with label dropout"),
        (with_network(label_dropout=True), CheckpointKind.STUDENT, "undistilled teacher"),
        (with_network(num_classes=0), CheckpointKind.BASE, "has none"),
    ],
)
def test_a_teacher_that_cannot_be_guided_is_refused(
    config: DenoiserConfig, kind: CheckpointKind, words: str, store: Store
) -> None:
    steps = 64 if kind is CheckpointKind.STUDENT else None
    teacher = publish(store, config, kind, sampling_steps=steps)
    with pytest.raises(UsageError, match=words):
        plan(store, start_from=teacher.id, guidance_scale="1:5")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"guidance_scale": "5:1"}, "'5:1' is not a range of guidance scales"),
        ({"guidance_scale": "0:4"}, "'0:4' is not a range of guidance scales"),
        ({"guidance_scale": "much"}, "'much' is not a range of guidance scales"),
        ({"guidance_scale": "1:5", "set": ("base.label_dropout=0",)}, "base.label_dropout is 0"),
        ({"guidance_scale": "1:5", "preset": "cifar10"}, "preset cifar10 has none"),
        ({"preset": "cifar10", "set": ("base.label_dropout=0.1",)}, "base.label_dropout is for models"),
        ({"set": ("base.label_dropout=1",)}, "base.label_dropout = 1"),
        ({"set": ("model.network.guidance_input=true",)}, "a base model does not take a guidance scale"),
        ({"set": ("model.network.label_dropout=true",)}, "training drops no label"),
    ],
)
def test_bad_settings_are_refused_by_name(options: dict[str, object], words: str) -> None:
    assert ARCHITECTURES["cifar10"].num_classes == 0
    with pytest.raises(UsageError) as refused:
        settings_from(RunOptions.model_validate(options))
    assert words in str(refused.value)


def test_sampling_says_which_scale_and_refuses_what_cannot_be(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guided = with_network(label_dropout=True, guidance_input=True)
    student = publish(store, guided, CheckpointKind.STUDENT, sampling_steps=1, training=LEARNED)
    plain = publish(store, with_network(label_dropout=True), CheckpointKind.STUDENT, sampling_steps=1)
    base = publish(store, with_network(label_dropout=True))

    def sample(reference: str, *words: str) -> int:
        place = ["--store", store.uri, "--out", str(tmp_path / "grid.png"), "--count", "2", "--steps", "1"]
        return main(["sample", reference, *place, "--json", *words])

    option = "--guidance-scale"
    assert sample(student.id) == 0 and '"guidance_scale": 1' in capsys.readouterr().out
    assert sample(student.id, option, "2.5") == 0 and '"guidance_scale": 2.5' in capsys.readouterr().out
    assert sample(student.id, option, "4") == 0
    assert "was trained with guidance scales 1:3, not 4" in capsys.readouterr().err
    assert sample(base.id, option, "4") == 0
    assert sample(plain.id, option, "4") == 2 and "cannot be guided" in capsys.readouterr().err
    assert sample(base.id, option, "0") == 2 and "guidance scale 0" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["sample", "x"], ["evaluate", "x"], ["export", "x"], ["plan"]])
def test_the_former_option_is_refused_with_its_translation(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*verb, "--guidance", "2"]) == 2
    assert "use --guidance-scale, which is 1 more (0 is now 1, 0:4 is now 1:5)" in capsys.readouterr().err
