"""Memory, time and cost of a run, from measurements and the user's prices; never guessed."""

import json
from pathlib import Path
from typing import Any

import pytest

from progdistill.cli.main import main
from progdistill.config.options import RunOptions
from progdistill.config.settings import LauncherName
from progdistill.data.dataset import DatasetInfo, find_dataset
from progdistill.errors import UsageError
from progdistill.models.denoiser import build_denoiser
from progdistill.registry.checkpoint import CheckpointKind, TrainingFigures, publish_checkpoint
from progdistill.run.estimate import estimate, read_prices
from progdistill.run.prepare import PreparedRun, prepare_run
from progdistill.run.rates import work_of
from progdistill.store.base import Store
from progdistill.store.layout import checkpoint_key
from progdistill.store.open import open_store
from progdistill.training.config import DistillationSettings
from progdistill.training.memory import StateMemory
from progdistill.training.state import TrainingState
from tests.registry.samples import description, provenance, weights_file

GPU = "NVIDIA H100 80GB HBM3"
PRICES = f'[prices]\ncurrency = "EUR"\n"{GPU}" = 3.0\n'


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> DatasetInfo:
    return find_dataset("digits", tmp_path_factory.mktemp("data"))


@pytest.fixture
def store(digits: DatasetInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store in a folder of its own, which is the working folder too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROGDISTILL_DATA", str(Path(digits.location).parent))
    return open_store(str(tmp_path / "store"))


def plan(store: Store, **options: Any) -> PreparedRun:
    return prepare_run(RunOptions.model_validate({"store": store.uri, **options}))


def trained(store: Store, run: PreparedRun, job: str, rate: float, **changes: Any) -> None:
    """Publish a checkpoint whose training went at `rate` images a second."""
    facts = {"device": GPU, "world_size": 8, "batch_size": 64, "peak_memory_bytes": 10**9} | changes
    figures = TrainingFigures(
        updates=10,
        images=640,
        seconds=640 / rate,
        images_per_second=rate,
        final_loss=None,
        job=job,
        world_size=facts["world_size"],
        peak_memory_bytes=facts["peak_memory_bytes"],
    )
    student = {"kind": CheckpointKind.STUDENT, "sampling_steps": 4, "parent": "b" * 64}
    identity = description(
        architecture=run.settings.model.model_dump(mode="json"),
        training={"batch_size": facts["batch_size"]},
        seed=len(list(store.list("checkpoints/"))),
        dataset_fingerprint=run.dataset.fingerprint,
        **({} if job == "train_base" else student),
    )
    weights = weights_file(Path(store.scratch()))
    configuration = run.settings.model_dump(mode="json")
    configuration["compute"] |= facts.get("compute", {})
    made = provenance(device=facts["device"], figures=figures, configuration=configuration)
    publish_checkpoint(store, weights, identity, made)


def test_time_is_images_by_the_measured_rate_and_cost_is_that_by_the_users_price(store: Store) -> None:
    run = plan(store, ladder="4:1", base_updates=1000, updates_per_stage=500)
    trained(store, run, "train_base", 200.0)
    trained(store, run, "train_base", 400.0)
    trained(store, run, "train_base", 300.0)
    trained(store, run, "distill", 100.0)
    Path("progdistill.toml").write_text(PRICES)
    (time,) = estimate(run).times
    assert time.seconds == pytest.approx(1000 * 64 / 300 + 2 * 500 * 64 / 100)
    assert time.device_hours == pytest.approx(8 * time.seconds / 3600)
    assert time.cost == pytest.approx(3.0 * time.device_hours) and time.currency == "EUR"
    assert (time.device, time.world_size, time.checkpoints) == (GPU, 8, 4)
    assert f"training on 8 × {GPU}: 14.2 minutes, 1.9 device hours, 5.69 EUR" in estimate(run).describe()


def test_a_damaged_checkpoint_stops_no_plan(store: Store) -> None:
    run = plan(store, ladder="4:1")
    trained(store, run, "train_base", 200.0)
    trained(store, run, "distill", 100.0)
    store.write(checkpoint_key("f" * 64), b"{}")
    assert len(estimate(run).times) == 1


def test_without_a_price_there_is_no_cost_but_a_word_on_how_to_set_one(store: Store) -> None:
    run = plan(store, ladder="4:1")
    trained(store, run, "train_base", 200.0)
    trained(store, run, "distill", 100.0)
    takes = estimate(run)
    assert takes.times[0].cost is None
    assert f'[prices] "{GPU}"' in takes.describe()


@pytest.mark.parametrize(
    ("job", "changes"),
    [
        ("train_base", {}),  # distillation was never measured
        ("distill", {"batch_size": 32}),
        ("distill", {"device": "cpu"}),
        ("distill", {"world_size": 1}),
        ("distill", {"world_size": None}),
        ("distill", {"compute": {"precision": "float32"}}),  # where it was left to the device
    ],
)
def test_what_was_measured_of_something_else_is_no_estimate(store: Store, job: str, changes: dict[str, Any]) -> None:
    run = plan(store, ladder="4:1")
    trained(store, run, "train_base", 200.0)
    trained(store, run, job, 100.0, **changes)
    takes = estimate(run)
    assert takes.times == ()
    assert "training time: unknown" in takes.describe() and "--measure" in takes.describe()


def test_a_network_of_another_size_is_no_measure(store: Store) -> None:
    other = plan(store, ladder="4:1", set=("model.network.base_channels=64",))
    trained(store, other, "train_base", 200.0)
    trained(store, other, "distill", 100.0)
    assert estimate(other).times and not estimate(plan(store, ladder="4:1")).times


def test_a_run_from_a_checkpoint_needs_no_time_for_a_base_model(store: Store) -> None:
    run = plan(store, ladder="4:1")
    trained(store, run, "train_base", 200.0)
    trained(store, run, "distill", 100.0)
    teacher = next(iter(store.list("checkpoints/"))).key.split("/")[1]
    branch = plan(store, ladder="4:1", start_from=teacher)
    (whole,), (rest,) = estimate(run).times, estimate(branch).times
    assert whole.seconds - rest.seconds == pytest.approx(run.settings.base.updates * 64 / 200)


def test_the_training_state_is_what_training_holds(store: Store) -> None:
    """Beside a student with a moving average stands its teacher; a gradient is as large as its weight."""
    run = plan(store, set=("distill.ema_decay=0.9",))
    settings: DistillationSettings = run.settings.distill
    state = TrainingState(build_denoiser(run.settings.model, seed=0), settings.for_stage(1))
    for parameter in state.parameters:
        parameter.grad = parameter.detach().clone()
    state.optimizer.step()
    parameters = sum(p.numel() for p in state.parameters)
    counters = len(state.parameters)  # Adam's step, one number a tensor
    held = sum(tensor.numel() for tensor in state.tensors().values()) - counters
    gradients, teacher = parameters, parameters
    assert estimate(run).memory.total == 4 * (held + gradients + teacher)


def test_with_fsdp_a_rank_holds_its_share(store: Store) -> None:
    whole = estimate(plan(store, set=("compute.world_size=4",)))
    share = estimate(plan(store, set=("compute.world_size=4", "compute.parallelism=fsdp")))
    assert whole.memory.total == pytest.approx(4 * share.memory.total, rel=1e-6)


def test_base_model_and_stages_may_train_on_different_numbers_of_ranks(store: Store) -> None:
    run = plan(store, ladder="4:1", base_updates=1000, updates_per_stage=500)
    trained(store, run, "train_base", 200.0, world_size=2)
    trained(store, run, "distill", 100.0, world_size=8)
    assert estimate(run).times == ()
    cluster = run.settings.cluster.model_copy(
        update={
            "train": run.settings.cluster.train.model_copy(update={"hosts": 2}),
            "distill": run.settings.cluster.distill.model_copy(update={"hosts": 8}),
        }
    )
    changed = {"launcher": LauncherName.KUBERNETES, "cluster": cluster}
    in_pods = run.model_copy(update={"settings": run.settings.model_copy(update=changed)})
    (time,) = estimate(in_pods).times
    assert (time.base_world_size, time.world_size) == (2, 8)
    assert time.device_hours == pytest.approx((2 * 1000 * 64 / 200 + 8 * 2 * 500 * 64 / 100) / 3600)
    assert f"training on 2 (base model) and 8 × {GPU}" in estimate(in_pods).describe()


@pytest.mark.slow
def test_measuring_trains_here_and_leaves_nothing_behind(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("progdistill.toml").write_text('[prices]\ncurrency = "EUR"\ncpu = 0.5\n')
    options = ["--store", store.uri, "--ladder", "4:1", "--measure", "30", "--profile", "profiles", "--json"]
    assert main(["plan", *options]) == 0
    (time,) = json.loads(capsys.readouterr().out)["estimate"]["times"]
    assert time["device"] == "cpu" and time["world_size"] == 1 and time["checkpoints"] == 0
    assert time["seconds"] > 0 and time["cost"] == pytest.approx(0.5 * time["device_hours"])
    assert not (tmp_path / "runs").exists() and not list(store.list("checkpoints/"))
    assert [path.name.partition("-")[0] for path in sorted(Path("profiles").iterdir())] == ["distill", "train_base"]
    assert all((path / "profile.html").exists() for path in Path("profiles").iterdir())


@pytest.mark.parametrize(
    ("text", "words"), [("[prices]\ncpu = -1", "cpu = -1"), ('[prices]\ncpu = "dear"', "cpu = 'dear'")]
)
def test_a_price_that_is_none_is_refused_by_name(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "progdistill.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as refused:
        read_prices(path)
    assert words in str(refused.value)


def test_half_precision_eight_bits_and_an_adapter_each_take_less(store: Store) -> None:
    def memory(*changes: str) -> StateMemory:
        run = plan(store, set=("distill.ema_decay=0.9", *changes))
        return work_of(run.settings, run.parameters, run.adapter_parameters)[-1].memory

    whole = memory()
    assert whole.weights == whole.gradients == whole.average == whole.frozen == whole.optimizer / 2
    assert memory("distill.frozen_precision=bfloat16").frozen == whole.frozen / 2
    assert memory("distill.optimizer=adamw_8bit").optimizer < 0.26 * whole.optimizer
    assert memory("distill.optimizer=muon").optimizer == whole.optimizer / 2
    adapter = memory("distill.lora.rank=2")
    assert adapter.weights < whole.weights and adapter.frozen == whole.frozen + adapter.weights


def test_activations_are_estimated_on_request(store: Store) -> None:
    run = plan(store)
    takes = estimate(run, activations=True)
    assert takes.activation_bytes is not None and takes.activation_bytes > 0
    said = f"{takes.images_at_a_time:,} images at a time, estimated from the network's shapes"
    assert said in takes.describe() and "estimated" not in estimate(run).describe()
    fewer = estimate(plan(store, set=("compute.micro_batch_size=1",)), activations=True)
    assert fewer.activation_bytes is not None and fewer.activation_bytes < takes.activation_bytes / 4
