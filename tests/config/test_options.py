"""Options become settings; an invalid option gives one message that says what to do."""

from pathlib import Path

import pytest

from progdistill.cli.main import main
from progdistill.config.deployment import parse_deployment
from progdistill.config.ladder import parse_ladder
from progdistill.config.options import (
    RUN_OPTIONS,
    RunOptions,
    add_run_options,
    as_arguments,
    parse_known_options,
    resolve_options,
)
from progdistill.config.settings import Settings, settings_from
from progdistill.data.dataset import DatasetInfo
from progdistill.errors import UsageError
from progdistill.run.estimate import read_prices


def typed(arguments: list[str]) -> RunOptions:
    """The options of a command line."""
    return resolve_options(parse_known_options(add_run_options, arguments)[0])


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


@pytest.mark.parametrize("assignment", ["", "base.updates", "evaluation.weights=", "evaluation.weights= "])
def test_an_assignment_without_a_value_is_refused(assignment: str) -> None:
    with pytest.raises(UsageError, match="has no value: write --set KEY.PATH=VALUE"):
        settings_from(RunOptions(set=(assignment,)))


def test_a_value_out_of_range_names_field_and_value() -> None:
    with pytest.raises(UsageError, match=r"base\.updates = -1"):
        settings_from(RunOptions(set=("base.updates=-1",)))


def test_the_papers_unstable_combination_is_refused() -> None:
    with pytest.raises(UsageError, match="Table 1"):
        settings_from(RunOptions(set=("model.prediction=eps", "base.loss_weight=truncated_snr")))


def test_options_of_others_on_the_line_are_left_alone() -> None:
    line = ["--max-workers", "3", "--ladder", "8:1", "--set", "a=1", "--set", "b=2"]
    values, rest = parse_known_options(add_run_options, line)
    options = resolve_options(values)
    assert (options.ladder, options.set) == ("8:1", (("a", 1), ("b", 2)))
    assert rest == ["--max-workers", "3"]


def test_typed_options_make_the_same_command_line_again() -> None:
    line = ["--from", "abc", "--seed", "3", "--set", "a=1 2", "--set", 'b={"c": 1}']
    values, _ = parse_known_options(add_run_options, line)
    again, rest = parse_known_options(add_run_options, as_arguments(values))
    assert again == values and rest == [] and values["start_from"] == "abc"


def test_an_option_that_was_renamed_is_refused_with_its_new_name(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in (["plan", "--like", "production"], ["run", "--like=production"]):
        assert main(line) == 2
        assert capsys.readouterr().err == "error: --like was renamed: use --reproduce\n"
    with pytest.raises(UsageError, match=r"progdistill\.toml: like was renamed: use reproduce"):
        of_file('like = "production"\n')
    with pytest.raises(UsageError, match=r"--set compute\.ranks was renamed: use compute\.world_size"):
        settings_from(RunOptions(set=("compute.ranks=2",)))
    with pytest.raises(UsageError, match="max_gang_restarts was renamed: use cluster.backoff_limit"):
        settings_from(RunOptions(set=("cluster.max_gang_restarts=2",)))


def test_a_setting_that_was_removed_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match=r"cluster\.use_jobset was removed: ranks restart in their own pod"):
        settings_from(RunOptions(set=("cluster.use_jobset=true",)))


def test_what_is_typed_comes_after_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("progdistill.toml").write_text('seed = 3\n[set]\n"base.updates" = 7\n"distill.updates" = 7\n')
    settings = settings_from(typed(["--set", "base.updates=9"]))
    assert (settings.seed, settings.base.updates, settings.distill.updates) == (3, 9, 7)


def test_a_file_adds_to_a_like_that_was_typed_nothing_but_where_runs_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("progdistill.toml").write_text(
        'store = "s3://a/b"\nseed = 3\npreset = "digits"\n[set]\n"cluster.image" = "i"\n"base.updates" = 7\n'
    )
    options = typed(["--reproduce", "production", "--set", "distill.updates=9"])
    assert (options.store, options.seed, options.preset) == ("s3://a/b", None, None)
    assert options.set == (("cluster.image", "i"), ("distill.updates", 9))
    assert typed([]).seed == 3


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
    with pytest.raises(UsageError, match=r"48×48 images of flowers.*--image-size .* --preset imagenet64 --set "):
        settings_from(RunOptions(dataset="flowers"), dataset_of("flowers", 48))
    with pytest.raises(UsageError, match=r"50×50 images of flowers.*--image-size 8, 32, 64, 128$"):
        settings_from(RunOptions(dataset="flowers"), dataset_of("flowers", 50))


@pytest.mark.parametrize("value", [10**400, 10**12, -1, "1e400"])
def test_a_network_of_absurd_size_is_one_message(value: object) -> None:
    for field in ("base_channels", "image_size", "num_classes", "residual_blocks", "condition_channels"):
        with pytest.raises(UsageError, match=field):
            settings_from(RunOptions(set=(f"model.network.{field}={value}",)))


def test_students_of_an_eps_model_predict_v() -> None:
    settings = settings_from(RunOptions(set=("model.prediction=eps",)))
    assert settings.student_prediction == "v"


def test_the_files_settings_stay_where_no_typed_one_replaces_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("progdistill.toml").write_text(
        '[set]\n"evaluation.samples" = 7\n"cluster.env" = {A = "b"}\n"cluster.run_as_user" = 7\n'
    )
    settings = settings_from(typed(["--set", "evaluation.samples=8"]))
    assert settings.evaluation.samples == 8
    assert settings.cluster.env == {"A": "b"} and settings.cluster.run_as_user == 7


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, and nothing in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("PROGDISTILL_STORE", "PROGDISTILL_LAUNCHER"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def of_file(text: str) -> Settings:
    Path("progdistill.toml").write_text(text)
    return settings_from(typed([]))


DECIDED = [
    ("dataset", "dataset"),
    ("store", "store"),
    ("ladder", "ladder"),
    ("preset", "preset"),
    ("first_teacher", "from"),
]


@pytest.mark.parametrize(("field", "option"), DECIDED)
def test_what_an_option_decides_is_refused_of_set_with_the_option_named(field: str, option: str, here: Path) -> None:
    words = rf"--set {field}: this has an option of its own: give it as --{option}"
    for assignment in (f"{field}=x", f" {field} =x"):
        with pytest.raises(UsageError, match=words):
            settings_from(RunOptions(set=(assignment,)))
    with pytest.raises(UsageError, match=words):
        of_file(f'[set]\n{field} = "x"\n')


@pytest.mark.parametrize("name", [o.name for o in RUN_OPTIONS if o.type is str and not o.repeatable])
@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_option_starts_no_run_with_defaults(
    name: str, empty: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=f"--{name} is empty"):
        typed([f"--{name}", empty])
    assert main(["plan", f"--{name}={empty}"]) == 2
    assert f"error: --{name} is empty" in capsys.readouterr().err
    with pytest.raises(UsageError, match=rf"progdistill\.toml: {name} is empty"):
        of_file(f'{name} = "{empty}"\n')


@pytest.mark.parametrize("name", ["PROGDISTILL_STORE", "PROGDISTILL_LAUNCHER"])
def test_an_empty_variable_of_the_environment_is_as_good_as_none(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "")
    assert resolve_options({}) == RunOptions()


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ('distill.updates_at_steps={"2":0}', r"distill\.updates_at_steps\.2 = 0: .* greater than 0"),
        ('distill.updates_at_steps={"3":9}', r"a student of 3 sampling steps.*take 32, 16, 8, 4, 2, 1"),
        ('distill.updates_at_steps={"128":9}', "a student of 128 sampling steps"),
        ('distill.updates_at_steps={"0":9}', "a student of 0 sampling steps"),
        ("evaluation.neighbors_at_steps=[4,0]", r"evaluation\.neighbors_at_steps\.1 = 0"),
        ("base.batch_size=100000000", r"base\.batch_size = 100000000"),
        ("evaluation.batch_size=100000000", r"evaluation\.batch_size = 100000000"),
        ("evaluation.samples=100000000", r"evaluation\.samples = 100000000"),
        ("evaluation.tuning_samples=100000000", r"evaluation\.tuning_samples = 100000000"),
    ],
)
def test_numbers_that_no_run_can_have_are_refused(assignment: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        settings_from(RunOptions(set=(assignment,)))


def test_updates_of_stages_may_come_with_a_preset_or_be_for_other_ladders() -> None:
    for ladder in ("64:4", "2:1"):
        assert settings_from(RunOptions(preset="cifar10", ladder=ladder)).distill.updates_at_steps
    sparse = RunOptions(ladder="64:1:4", set=('distill.updates_at_steps={"8":9}',))
    assert settings_from(sparse).distill.updates_at_steps == {8: 9}


def test_updates_of_stages_of_another_run_stay_where_the_ladder_is_shorter() -> None:
    long = settings_from(RunOptions(set=('distill.updates_at_steps={"32":9}',)))
    assert settings_from(RunOptions(ladder="8:1"), recorded=long).distill.updates_at_steps == {32: 9}


@pytest.mark.parametrize("value", ["inf", "Infinity", "NaN", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    "field",
    [
        "base.learning_rate",
        "distill.weight_decay",
        "evaluation.ancestral_gamma",
        "live.interval_seconds",
        "model.network.dropout",
        "cluster.deadline_hours",
        "cluster.train.cpu",
    ],
)
def test_numbers_are_finite(field: str, value: str) -> None:
    with pytest.raises(UsageError, match=field.replace(".", r"\.")):
        settings_from(RunOptions(set=(f"{field}={value}",)))


@pytest.mark.parametrize(
    ("assignment", "field"),
    [
        ("base.updates=true", r"base\.updates = True"),
        ("seed=false", "seed = False"),
        ("base.learning_rate=true", r"base\.learning_rate = True"),
        ("compute.world_size=true", r"compute\.world_size = True"),
        ('distill.updates_at_steps={"2":true}', r"distill\.updates_at_steps\.2 = True"),
        ("evaluation.neighbors_at_steps=[4,true]", r"evaluation\.neighbors_at_steps\.1 = True"),
        ('base={"updates":true}', r"base\.updates = True"),
        ('base.updates="7"', r"base\.updates = '7'"),
    ],
)
def test_values_of_another_type_are_refused(assignment: str, field: str) -> None:
    with pytest.raises(UsageError, match=f"{field}: Input should be a valid (integer|number)"):
        settings_from(RunOptions(set=(assignment,)))


@pytest.mark.parametrize(
    ("assignment", "advice"),
    [
        ("model.network.attention_resolutions=8", "[8]"),
        ("model.network.attention_resolutions=8,4", "[8,4]"),
        ("cluster.env_from_secrets=store", '["store"]'),
    ],
)
def test_a_list_without_its_brackets_is_answered_with_them(assignment: str, advice: str) -> None:
    with pytest.raises(UsageError) as raised:
        settings_from(RunOptions(set=(assignment,)))
    assert str(raised.value).endswith(f"Input should be a valid array; write {advice}")
    name, _, _ = assignment.partition("=")
    settings_from(RunOptions(set=(f"{name}={advice}",)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed = true", "seed = True is not of type int"),
        ("dataset = 5", "dataset = 5 is not of type str"),
        ('[set]\n"base.updates" = true', r"base\.updates = True: Input should be a valid integer"),
        ("[set]\nday = 2026-01-01", r"progdistill\.toml: \[set\] day: dates"),
        ("[set.base]\nupdates = 07:30:00", r"progdistill\.toml: \[set\] base: dates"),
        ("[set.base]\nupdate = 7", r"--set base\.update: unknown setting; did you mean base\.updates"),
        ("set = 5", r"\[set\] must be a table"),
        ("seed =", "is not valid TOML"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_with_its_key(text: str, words: str, here: Path) -> None:
    with pytest.raises(UsageError, match=words):
        of_file(text)


def test_a_file_that_cannot_be_read_is_refused_by_runs_and_prices(here: Path) -> None:
    file = here / "progdistill.toml"
    file.write_bytes(b'dataset = "\xff"')
    for read in (lambda: typed([]), read_prices):
        with pytest.raises(UsageError, match=r"progdistill\.toml is not valid TOML"):
            read()
    file.unlink()
    file.mkdir()
    for read in (lambda: typed([]), read_prices):
        with pytest.raises(UsageError, match=r"progdistill\.toml cannot be read: Is a directory"):
            read()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prices = 5", r"prices = 5: write a table \[prices\]"),
        ("[prices]\ncpu = inf", r"cpu = inf"),
        ("[prices]\ncpu = -1", r"cpu = -1"),
    ],
)
def test_prices_that_are_none_are_refused(text: str, words: str, here: Path) -> None:
    Path("progdistill.toml").write_text(text)
    with pytest.raises(UsageError, match=words):
        read_prices()


@pytest.mark.parametrize(
    "text",
    [
        '[set]\n"base.updates" = 7\n"cluster.env" = {A = "1"}\n"cluster.train.node_selector" = {b = "c"}\n'
        '"distill.updates_at_steps" = {2 = 9}',
        '[set]\nbase.updates = 7\ncluster.env.A = "1"\ncluster.train.node_selector.b = "c"\n'
        "distill.updates_at_steps.2 = 9",
        '[set.base]\nupdates = 7\n[set.cluster.env]\nA = "1"\n[set.cluster.train.node_selector]\nb = "c"\n'
        "[set.distill.updates_at_steps]\n2 = 9",
        '[set]\nbase = {updates = 7}\n[set.cluster]\nenv = {A = "1"}\n"train.node_selector" = {b = "c"}\n'
        "[set.distill]\nupdates_at_steps = {2 = 9}",
    ],
)
def test_tables_below_set_are_paths(text: str, here: Path) -> None:
    settings, plain = of_file(text), settings_from(RunOptions())
    assert settings.base == plain.base.model_copy(update={"updates": 7})
    assert settings.cluster.env == {"A": "1"}
    assert settings.cluster.train.node_selector == {"b": "c"}
    assert settings.distill == plain.distill.model_copy(update={"updates_at_steps": {2: 9}})


def test_an_error_of_a_section_does_not_print_all_of_it() -> None:
    with pytest.raises(UsageError) as told:
        settings_from(RunOptions(set=("model.network.base_channels=7",)))
    assert str(told.value) == "model.network: 7 channels do not divide into 4 groups (the setting groups)"


def test_true_is_no_number_in_a_deployment_either() -> None:
    with pytest.raises(UsageError, match="seed = True is not of type int"):
        parse_deployment("[options]\nseed = true\n")


DEEP = 100_000


@pytest.mark.parametrize("text", ["[" * DEEP + "]" * DEEP, '{"x":' * 200 + "1" + "}" * 200])
def test_a_value_that_is_nested_too_deeply_is_one_message(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"--set distill: the value cannot be used: it is nested deeper than 100"):
        RunOptions(set=(f"distill={text}",))
    with pytest.raises(UsageError, match="the deployment is not valid TOML or JSON: it is nested deeper than 100"):
        parse_deployment(f'{{"options": {text}}}')
    for content in (f"x = {text.replace(':', '=')}", "x." * 200 + "y = 1"):
        Path("progdistill.toml").write_text(content.replace('"', ""))
        with pytest.raises(UsageError, match="progdistill.toml is not valid TOML: it is nested deeper than 100"):
            resolve_options({})


def test_integers_beyond_64_bits_and_null_characters_are_one_message() -> None:
    with pytest.raises(UsageError, match="seed cannot be used: it has an integer beyond 64 bits"):
        settings_from(RunOptions(seed=10**400))
    with pytest.raises(UsageError, match="--ladder = .* has a null character"):
        resolve_options({"ladder": "8:1\0"})
