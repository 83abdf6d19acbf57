"""Live reports of a training do not change its weights."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from progdistill.data.dataset import DatasetInfo
from progdistill.diffusion.names import PredictionType
from progdistill.errors import TransientError
from progdistill.jobs.events import Event, TrainingEvent
from progdistill.jobs.live import LiveTraining
from progdistill.jobs.local import LocalLauncher
from progdistill.jobs.result_cache import complete
from progdistill.jobs.spec import CheckpointOutput, DistillSpec
from progdistill.models.denoiser import Denoiser, build_denoiser
from progdistill.registry.checkpoint import CheckpointKind
from progdistill.store.base import Store
from progdistill.store.layout import live_samples_key
from progdistill.training.config import LiveSettings
from progdistill.training.profile import Work
from progdistill.training.state import TrainingState
from tests.jobs.asking import request_for
from tests.jobs.conftest import publish
from tests.training.conftest import settings, tiny

CONFIG = tiny(dropout=0.1)
SPEC = DistillSpec(
    dataset_fingerprint="f",
    seed=3,
    teacher="a" * 64,
    student_steps=4,
    prediction=PredictionType.V,
    training=settings(100),
)


class Hours:
    """A clock that a test moves."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class WatchCache:
    """A training that takes half a second an update, and all that it told."""

    def __init__(self, store: Store, **live: float) -> None:
        self.told: list[Event] = []
        self.clock = Hours()
        self.state = TrainingState(build_denoiser(CONFIG, seed=0).train(), SPEC.training)
        chosen = LiveSettings.model_validate(live)
        work = Work(16, flops_per_image=1e6, product_rate=1e9)
        self.watch = LiveTraining(SPEC, chosen, store, work, self.told.append, self.clock)

    def go_on_to(self, update: int) -> None:
        while self.state.update < update:
            self.state.update += 1
            self.clock.seconds += 0.5
            self.watch(self.state, loss=1 / self.state.update)

    @property
    def events(self) -> list[TrainingEvent]:
        return [event for event in self.told if isinstance(event, TrainingEvent)]


def test_events_are_as_far_apart_as_asked_and_one_says_that_it_is_done(store: Store) -> None:
    training = WatchCache(store, interval_seconds=20)
    training.go_on_to(100)
    assert [event.update for event in training.events] == [40, 80, 100]
    first, _, last = training.events
    assert (first.images_per_second, first.remaining_seconds) == (32.0, 30.0)
    assert first.model_flops_utilization == 2 * 16 * 1e6 / 1e9
    assert first.loss == pytest.approx(np.mean([1 / update for update in range(1, 41)]))
    assert last.remaining_seconds == 0


def test_samples_are_a_picture_in_the_store_that_the_event_names(store: Store) -> None:
    training = WatchCache(store, interval_seconds=10, samples_interval_seconds=15, samples=6)
    training.go_on_to(50)
    assert [event.samples_key for event in training.events] == [None, live_samples_key(SPEC.id)]
    data = store.read(live_samples_key(SPEC.id))
    assert data is not None
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (6 * 50 + 2, 52)
        assert np.asarray(picture).std() > 10


def test_a_short_training_draws_nothing(store: Store) -> None:
    training = WatchCache(store)
    training.go_on_to(59)
    assert not list(store.list("live/"))


def test_the_model_stays_in_training_with_the_weights_it_had(store: Store) -> None:
    training = WatchCache(store, samples_interval_seconds=0)
    before = {name: tensor.clone() for name, tensor in training.state.model.state_dict().items()}
    training.go_on_to(2)
    assert list(store.list("live/"))
    assert all(module.training for module in training.state.model.modules())
    assert all(torch.equal(before[name], t) for name, t in training.state.model.state_dict().items())


def test_slow_drawing_takes_a_twentieth_of_the_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    training, drawn = WatchCache(store, samples_interval_seconds=0), []

    def slow(self: LiveTraining, model: Denoiser) -> np.ndarray:
        drawn.append(training.state.update)
        training.clock.seconds += 1.0
        return np.zeros((4, 4, 1), np.uint8)

    monkeypatch.setattr(LiveTraining, "_picture", slow)
    training.go_on_to(99)
    assert drawn == [1, 41, 81]


def test_training_goes_on_without_a_store_that_answers(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(key: str, data: bytes) -> None:
        raise TransientError("the store does not answer")

    monkeypatch.setattr(store, "write", broken)
    training = WatchCache(store, interval_seconds=0, samples_interval_seconds=0)
    training.go_on_to(2)
    assert [event.samples_key for event in training.events] == [None, None]


@pytest.mark.slow
def test_a_job_that_is_watched_publishes_the_very_same_weights(
    store: Store, digits: DatasetInfo, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In real worker processes: drawing after every update, or silent; then nothing of it is left."""
    teacher = publish(store, CONFIG, CheckpointKind.BASE)
    spec = SPEC.model_copy(update={"teacher": teacher.id, "training": settings(6)})
    told: list[Event] = []
    made = []
    for live in (None, LiveSettings(interval_seconds=0, samples_interval_seconds=0, samples=2)):
        request = request_for(spec, store, digits, live=live)
        launcher = LocalLauncher(tmp_path / "jobs", told.append)
        made.append(complete(store, launcher, request).result.output_of(CheckpointOutput).checkpoint_id)
        store.delete(f"jobs/{spec.id}/result.json")
    assert made[0] == made[1]
    assert len(told) == 6
    assert told[-1].samples_key == live_samples_key(spec.id)
    assert not list(store.list("live/"))
    assert "progdistill-event" not in "".join(capfd.readouterr())
