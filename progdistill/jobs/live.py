"""Live progress of a training job: loss, rate, ETA and periodic samples."""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import numpy as np
import torch
from numpy.typing import NDArray

from progdistill.diffusion.names import SamplerName
from progdistill.errors import ProgdistillError
from progdistill.evaluation.sampling import generate
from progdistill.images import encode_png, grid, readable_scale
from progdistill.jobs.events import Listener, TrainingEvent, emit
from progdistill.jobs.spec import TrainBaseSpec, TrainingSpec
from progdistill.models.denoiser import Denoiser
from progdistill.store.base import Store
from progdistill.store.layout import live_samples_key
from progdistill.training.config import LiveSettings
from progdistill.training.devices import device_name
from progdistill.training.profile import Work
from progdistill.training.state import TrainingState

_LONGEST_SHARE = 0.05  # of the time, for drawing samples


class LiveTraining:
    """Watches a training from its rank 0. Random numbers of the training are left alone."""

    def __init__(
        self,
        spec: TrainingSpec,
        settings: LiveSettings,
        store: Store,
        work: Work | None = None,
        listener: Listener = emit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec, self._settings, self._store, self._work = spec, settings, store, work
        self._listener, self._clock = listener, clock
        self._began = clock()
        self._next_event = self._began + settings.interval_seconds
        self._next_samples = self._began + settings.samples_interval_seconds
        self._updates_done = 0  # since this process began
        self._losses: list[float] = []
        self._samples_key: str | None = None

    def __call__(self, state: TrainingState, loss: float) -> None:
        """See TrainingHooks.watch."""
        total = self._spec.training.updates
        self._updates_done += 1
        self._losses.append(loss)
        now = self._clock()
        if now >= self._next_samples and self._settings.samples and state.update < total:
            self._draw(state.model)
        if now >= self._next_event or state.update == total:
            device = next(state.model.parameters()).device
            self._listener(self._event(state.update, total, now - self._began, device))
            self._next_event = self._clock() + self._settings.interval_seconds
            self._losses = []

    def _event(self, update: int, total: int, seconds: float, device: torch.device) -> TrainingEvent:
        rate = self._updates_done / max(seconds, 1e-9)
        return TrainingEvent(
            at=datetime.now(UTC),
            job_id=self._spec.id,
            label=self._spec.label,
            update=update,
            updates=total,
            loss=sum(self._losses) / len(self._losses),
            images_per_second=rate * self._spec.training.batch_size,
            remaining_seconds=(total - update) / rate,
            samples_key=self._samples_key,
            seconds=seconds,
            world_size=self._spec.world_size,
            device=device_name(device),
            model_flops_utilization=None if self._work is None else self._work.utilization(rate),
        )

    def _draw(self, model: Denoiser) -> None:
        """Put samples of the current weights into the store; how long it took decides when the next are due.

        If memory runs out or the store is unreachable, training continues without them.
        """
        began = self._clock()
        # Where ranks hold parts of the weights, one rank alone cannot draw.
        # A latent model's decoder is not in memory while it trains.
        whole = not any(hasattr(parameter, "full_tensor") for parameter in model.parameters())
        if whole and model.config.pipeline is None:
            with suppress(ProgdistillError, torch.OutOfMemoryError):
                self._store.write(live_samples_key(self._spec.id), encode_png(self._picture(model)))
                self._samples_key = live_samples_key(self._spec.id)
        now = self._clock()
        self._next_samples = now + max(self._settings.samples_interval_seconds, (now - began) / _LONGEST_SHARE)

    def _picture(self, model: Denoiser) -> NDArray[np.uint8]:
        """A row of samples, as large as a person needs them."""
        steps, scale = self._settings.most_sampling_steps, None
        if not isinstance(self._spec, TrainBaseSpec):
            steps = min(steps, self._spec.student_steps)
            scale = None if self._spec.guidance_scale is None else self._spec.guidance_scale.lowest
        try:
            images = generate(
                model,
                SamplerName.DDIM,
                steps,
                indices=range(self._settings.samples),
                seed=self._spec.seed,
                guidance_scale=scale,
                batch_size=self._settings.samples,
                device=next(model.parameters()).device,
            )
            pixels = torch.cat(list(images)).permute(0, 2, 3, 1).cpu().numpy()
        finally:
            model.train()
        return grid(pixels, columns=len(pixels), scale=readable_scale(pixels.shape[1]))
