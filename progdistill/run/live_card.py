"""A Metaflow card that shows a stage while it trains."""

from typing import Any

from progdistill.errors import ProgdistillError
from progdistill.jobs.events import Event, TrainingEvent
from progdistill.report.card import LiveStage
from progdistill.report.input import LossPoint
from progdistill.store.base import Store


class LiveCard:
    """A listener that updates a card with every event of a training."""

    def __init__(self, card: Any, store: Store) -> None:
        """`card` is a Metaflow `current.card[…]`; `store` has the current samples of jobs."""
        self._card, self._store = card, store
        self._job_id: str | None = None

    def __call__(self, event: Event) -> None:
        """Show a training's event; a second training of the step is shown below the first."""
        if not isinstance(event, TrainingEvent):
            return
        if event.job_id != self._job_id:
            self._job_id, self._losses = event.job_id, list[LossPoint]()
            self._stage = LiveStage(event.label, event.updates)
            self._card.extend(self._stage.components)
        self._losses.append(LossPoint(update=event.update, loss=event.loss))
        self._stage.show(
            event.update,
            self._losses,
            images_per_second=event.images_per_second,
            remaining_seconds=event.remaining_seconds,
            samples=self._samples(event),
        )
        self._card.refresh()

    def _samples(self, event: TrainingEvent) -> bytes | None:
        """Current samples; None where there are none, or the store cannot be read."""
        if event.samples_key is None:
            return None
        try:
            return self._store.read(event.samples_key)
        except ProgdistillError:
            return None
