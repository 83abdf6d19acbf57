"""The Python interface: load, sample, evaluate and export models; plan, start and follow runs; compare them.

    import progdistill

    run = progdistill.distill(ladder="64:4", seed=1).wait()
    progdistill.load(f"DistillFlow/{run.run_id}/4").sample(64, seed=0).save("grid.png")

Every function takes what the command of its name takes, and raises what that command prints: UsageError for
what the caller can correct, another ProgdistillError otherwise.
"""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from pydantic import JsonValue

from progdistill.config.options import DEFAULT_STORE, RUN_OPTIONS, as_arguments, resolve_options
from progdistill.config.overrides import overrides_of
from progdistill.data.catalog import UNKNOWN_DATASET
from progdistill.diffusion.names import SamplerName
from progdistill.errors import ProgdistillError, UsageError, require_between
from progdistill.models.config import DenoiserConfig
from progdistill.models.export import ExportFormat, export_checkpoint
from progdistill.registry.checkpoint import CheckpointManifest, list_manifests
from progdistill.registry.resolve import resolve_reference
from progdistill.run.prepare import PreparedRun, prepare_run, runs_folder
from progdistill.store.base import Store
from progdistill.store.open import open_store

if TYPE_CHECKING:
    from progdistill.data.dataset import DatasetInfo
    from progdistill.evaluation.config import EvaluationSettings
    from progdistill.evaluation.measurement import EvaluationRecord
    from progdistill.images import Pixels
    from progdistill.jobs.events import Event
    from progdistill.models.denoiser import Denoiser
    from progdistill.report.comparison import Comparison
    from progdistill.report.input import ReportInput

logger = logging.getLogger(__name__)

MOST_IMAGES = 10_000_000
"""Drawn in one call: two hundred times what a published FID takes."""

MOST_STEPS = 2**20
"""Sampling steps in one call: 128 times those of the paper's longest ladder."""

POLL_SECONDS = 0.5
EVENTS_FILE = "events.jsonl"
LOG_FILE = "output.log"
LOG_LINES = 20
"""Lines of a failed run's log that its error shows."""


class Samples:
    """Images drawn from a model; a notebook shows them as a grid.

    Attributes:
        images: uint8 array of shape [count, height, width, channels], 1 (gray) or 3 (RGB) channels.
        labels: class of each image, or None for a model without classes.
    """

    def __init__(self, images: "Pixels", labels: list[int] | None) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        count, height, width, channels = self.images.shape
        return f"Samples({count} images of {height}×{width}, {'gray' if channels == 1 else 'RGB'})"

    def grid(self, columns: int | None = None) -> "Pixels":
        """One uint8 image of shape [height, width, channels] with all samples, small ones enlarged."""
        from progdistill.images import grid, readable_scale

        return grid(self.images, columns, scale=readable_scale(self.images.shape[1]))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a PNG grid, or a Parquet file with each image as it is, by the ending of `path`."""
        from progdistill.images import encode_png, write_parquet

        out = Path(path)
        if out.suffix == ".parquet":
            write_parquet(out, [self.images], self.labels)
        elif out.suffix == ".png":
            out.write_bytes(encode_png(self.grid()))
        else:
            raise UsageError(f"{out}: give a file that ends in .png or .parquet")
        return out

    def _repr_png_(self) -> bytes:
        from progdistill.images import encode_png

        return encode_png(self.grid())


class Model:
    """A checkpoint that can be sampled, evaluated and exported. `load` makes one.

    Attributes:
        manifest: everything that is known of the checkpoint (`registry.checkpoint.CheckpointManifest`).
        store: the store that holds it.
        reference: as it was named.
    """

    def __init__(self, store: Store, reference: str, device: str = "auto") -> None:
        self.store, self.reference, self._device = store, reference, device
        self.manifest = resolve_reference(store, reference)

    def __repr__(self) -> str:
        identity = self.manifest.identity
        steps = (
            f"{identity.sampling_steps} sampling steps" if identity.sampling_steps else "any sampling steps"
        )
        return f"Model({self.id[:12]}, {identity.kind}, {steps}, {self.manifest.provenance.dataset_name})"

    @property
    def id(self) -> str:
        """The checkpoint's id: SHA-256 of what it is."""
        return self.manifest.id

    @property
    def sampling_steps(self) -> int | None:
        """The steps that a student was distilled to; None for a model that samples with any number."""
        return self.manifest.identity.sampling_steps

    @property
    def config(self) -> DenoiserConfig:
        """The network's shape, and what it predicts."""
        return DenoiserConfig.of(self.manifest.identity)

    @cached_property
    def device(self) -> str:
        """The torch device that the model runs on."""
        from progdistill.training.devices import choose_device

        return str(choose_device(self._device, local_rank=0))

    @cached_property
    def denoiser(self) -> "Denoiser":
        """The network as a `torch.nn.Module`, its weights verified; read when it is first used."""
        import torch

        from progdistill.models.denoiser import load_denoiser
        from progdistill.training.config import Precision
        from progdistill.training.execution import set_float32_products

        set_float32_products(Precision.FLOAT32, torch.device(self.device))
        return load_denoiser(self.store, self.manifest, self.device)

    def steps_for(self, sampling_steps: int | None) -> int:
        """The steps to sample with: those asked for, else the student's own. UsageError without either."""
        own = self.sampling_steps
        if sampling_steps is None and own is None:
            raise UsageError(f"{self.reference} takes any number of sampling steps: give --sampling-steps N")
        if sampling_steps is not None and own is not None and sampling_steps != own:
            logger.warning(
                "note: %s was distilled to %d sampling steps, not %d", self.reference, own, sampling_steps
            )
        return sampling_steps or own or 1

    def guidance_scale_for(self, guidance_scale: float | None) -> float | None:
        """The guidance scale to sample with: the one asked for, else the lowest that a guided student knows.

        Raises UsageError for one below 1, and for a model that cannot be guided.
        """
        from progdistill.training.guidance import guidance_scale_for

        return guidance_scale_for(self.manifest, guidance_scale)

    def sample(
        self,
        count: int = 64,
        *,
        seed: int = 0,
        sampling_steps: int | None = None,
        sampler: str = SamplerName.DDIM,
        guidance_scale: float | None = None,
        gamma: float | None = None,
        label: int | None = None,
        clip: bool = True,
        batch_size: int = 250,
    ) -> Samples:
        """Draw images. Image i is a function of (seed, i) alone, whatever the count and the batch size.

        Args:
            count: number of images, at least 1.
            seed: seed of the noise.
            sampling_steps: default: those that the student was distilled to.
            sampler: `ddim` or another name of `diffusion.names.SamplerName`.
            guidance_scale: from 1 (no guidance) upward; default: the lowest that the model was trained with.
            gamma: variance of ancestral sampling on a logarithmic scale, from 0 to 1.
            label: the one class to draw; default: all classes in turn.
            clip: clip x̂ to [−1, 1] in every step.
            batch_size: images at once.

        Raises:
            UsageError: an argument is out of range, or the model cannot do what it asks.
        """
        import numpy as np

        batches, labels = self.batches(
            count,
            seed=seed,
            sampling_steps=sampling_steps,
            sampler=sampler,
            guidance_scale=self.guidance_scale_for(guidance_scale),
            gamma=gamma,
            label=label,
            clip=clip,
            batch_size=batch_size,
        )
        return Samples(np.concatenate(list(batches)), labels)

    def batches(
        self,
        count: int,
        *,
        seed: int,
        sampling_steps: int | None,
        sampler: str,
        guidance_scale: float | None,
        gamma: float | None,
        label: int | None,
        clip: bool,
        batch_size: int,
    ) -> "tuple[Iterator[Pixels], list[int] | None]":
        """As `sample`, in batches of at most `batch_size` images, which need not fit in memory together."""
        from progdistill.evaluation.sampling import generate, labels_of

        _require_sampling(count, sampling_steps, sampler, gamma, batch_size)
        steps = self.steps_for(sampling_steps)
        classes = self.config.network.num_classes
        if label is not None and not 0 <= label < classes:
            fit = f"give a class from 0 to {classes - 1}" if classes else "this model has no classes"
            raise UsageError(f"label {label}: {fit}")
        labels = labels_of(range(count), classes, label)
        drawn = generate(
            self.denoiser,
            SamplerName(sampler),
            steps,
            indices=range(count),
            seed=seed,
            batch_size=batch_size,
            gamma=gamma,
            guidance_scale=guidance_scale,
            clip=clip,
            class_label=label,
            device=self.device,
            name=f"checkpoint {self.id[:12]}",
        )
        images = (batch.permute(0, 2, 3, 1).cpu().numpy() for batch in drawn)
        return images, None if labels is None else labels.tolist()

    def evaluate(
        self,
        *,
        sampling_steps: int | None = None,
        dataset: str | None = None,
        baselines: bool = True,
        **changes: JsonValue,
    ) -> "EvaluationRecord":
        """Measure the model's samples against real images, beside the undistilled model's.

        Figures that the store holds already are not measured again.

        Args:
            sampling_steps: default: those that the student was distilled to.
            dataset: name of the real images' dataset; default: the one the model was trained on.
            baselines: measure the undistilled model at equally many steps too.
            **changes: fields of `evaluation.config.EvaluationSettings`, such as `samples` and `evaluator`;
                default: those of the run that trained the model.

        Raises:
            UsageError: the dataset, a file or a setting cannot be used.
        """
        from progdistill.data.dataset import default_data_root, find_dataset, require_data_of
        from progdistill.evaluation.evaluate import evaluate_checkpoint
        from progdistill.evaluation.plan import baseline_of

        name = dataset or self.manifest.provenance.dataset_name
        if name == UNKNOWN_DATASET:
            raise UsageError(
                f"{self.reference}: the dataset of this imported model is unknown: choose with --dataset what"
                " to compare its samples with"
            )
        info = find_dataset(name, default_data_root())
        if dataset is None:
            require_data_of(info, self.manifest.identity.dataset_fingerprint, self.reference)
        steps = sampling_steps or self.steps_for(None)
        settings = evaluation_settings(self.manifest, info, sampling_steps=steps, changes=changes)
        baseline = baseline_of(self.store, self.manifest) if baselines else None
        return evaluate_checkpoint(
            self.store, self.manifest, baseline, steps, settings, info, device=self.device
        )

    def export(
        self,
        out: str | os.PathLike[str],
        format: ExportFormat = "diffusers",
        *,
        guidance_scale: float | None = None,
    ) -> float | None:
        """Write the model for other programs, with a model card that shows how to use it.

        Args:
            out: a folder, new or empty.
            format: `diffusers` (a pipeline that stock diffusers loads), `safetensors` or `onnx`.
            guidance_scale: to build into a guided student (diffusers only); default: the lowest it knows.

        Returns:
            The guidance scale that is built in, None where there is none.

        Raises:
            UsageError: the folder holds files, or the format cannot express the model.
        """
        if guidance_scale is not None and format != "diffusers":
            raise UsageError("--guidance-scale is for --format diffusers; elsewhere it stays an input")
        folder = Path(out)
        if folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"{folder} holds something already: give a new folder")
        scale = self.guidance_scale_for(guidance_scale)
        return export_checkpoint(self.store, self.manifest, format, folder, scale)


def load(reference: str, store: str | None = None, *, device: str = "auto") -> Model:
    """Find a checkpoint and return it as a model.

    Args:
        reference: an id, a unique prefix of one, an alias such as `production`, or `DistillFlow/RUN/STEPS`.
        store: folder or `s3://bucket/prefix`; default: see `open_default_store`.
        device: `auto`, `cpu`, `cuda` or `tpu`.

    Raises:
        UsageError: no such checkpoint, or an ambiguous reference.
    """
    return Model(open_default_store(store), reference, device)


def open_default_store(store: str | None = None) -> Store:
    """Open the named store, else that of $PROGDISTILL_STORE, of progdistill.toml, or `.progdistill/store`."""
    uri = resolve_options({"store": store}).store
    return open_store(uri or DEFAULT_STORE, must_exist=uri is not None)


def checkpoints(store: str | None = None) -> list[CheckpointManifest]:
    """The manifests of all checkpoints of a store, the newest last."""
    found = list_manifests(open_default_store(store))
    return sorted(found, key=lambda manifest: manifest.provenance.created_at)


def compare(*runs: "Run | str") -> "Comparison":
    """Compare the distances, times and settings of two or more runs.

    Args:
        *runs: runs or their ids, measured with one evaluator on one dataset.

    Raises:
        UsageError: fewer than two runs, no such run, or figures that do not compare.
    """
    from progdistill.report.comparison import compare_runs

    return compare_runs([(run if isinstance(run, Run) else Run(run)).report() for run in runs])


class Run:
    """A run of the flow in the current folder: one that `distill` started, or a finished one by its id.

    Attributes:
        run_id: Metaflow's id of the run.
        folder: `runs/RUN`, where its report and its log `output.log` are.
    """

    def __init__(self, run_id: str = "latest", process: "subprocess.Popen[bytes] | None" = None) -> None:
        self.run_id, self.folder = run_id, runs_folder().absolute() / run_id
        self._process = process

    def __repr__(self) -> str:
        return f"Run({self.run_id}, {self.state})"

    @property
    def state(self) -> Literal["running", "done", "failed", "unknown"]:
        """`unknown` for a run of another process that has left no report yet."""
        status = None if self._process is None else self._process.poll()
        if self._process is not None and status is None:
            return "running"
        if status:
            return "failed"
        return "done" if (self.folder / "report").is_dir() else "unknown"

    def events(self) -> "Iterator[Event]":
        """Yield the run's events from its start until it ends.

        A `jobs.events.TrainingEvent` says update, loss, images per second and remaining seconds; a `JobEvent`
        that a job has started, finished or failed.
        """
        position, ended = 0, False
        while not ended:
            ended = self.state != "running"
            found, position = _read_events(self.folder / EVENTS_FILE, position)
            yield from found
            if not ended:
                time.sleep(POLL_SECONDS)

    def wait(self) -> "Run":
        """Wait until the run ends; return it. RunFailedError, with the end of its log, where it failed."""
        if self._process is not None and self._process.wait() != 0:
            raise RunFailedError(
                f"run {self.run_id} failed with status {self._process.returncode}:\n{self._last_lines()}"
            )
        return self

    def _last_lines(self) -> str:
        log = self.folder / LOG_FILE
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return "\n".join(lines[-LOG_LINES:])

    def stop(self) -> None:
        """Interrupt the run, which saves its state, and wait for it; `resume` goes on from there."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()

    def report(self) -> "ReportInput":
        """The figures of the run's report: every stage with its distance, baselines, time and images."""
        from progdistill.report.build import read_input
        from progdistill.run.report import report_folder

        return read_input(report_folder(self.run_id))

    def models(self, store: str | None = None) -> dict[int, Model]:
        """The run's models by their number of sampling steps, the most first."""
        report = self.report()
        return {stage.sampling_steps: load(stage.id, store or report.store) for stage in report.checkpoints}


class RunFailedError(ProgdistillError):
    """A run that was started from Python ended with another exit status than 0."""


class Options(TypedDict, total=False):
    """The options of `progdistill run`, with underscores for dashes; `start_from` stands for `--from`."""

    dataset: str
    ladder: str
    target_steps: int
    start_from: str
    reproduce: str
    preset: str
    store: str
    launcher: str
    seed: int
    base_updates: int
    updates_per_stage: int
    guidance_scale: str
    set: dict[str, JsonValue]
    """Settings by path, such as `{"distill.learning_rate": 5e-4}`."""


def plan(**options: Unpack[Options]) -> PreparedRun:
    """Check a run's options and return what it would do; nothing is trained or written.

    Args:
        **options: see `Options`.

    Returns:
        The plan; `print(plan.describe())` shows it, `plan.facts()` gives its numbers.

    Raises:
        UsageError: an option cannot be used.
    """
    return prepare_run(resolve_options(_typed(options)))


def distill(**options: Unpack[Options]) -> Run:
    """Start a run of the flow in this folder, in a process of its own, and return at once.

    Args:
        **options: see `Options`.

    Returns:
        The run: `wait()` for it, or follow its `events()`.

    Raises:
        UsageError: an option cannot be used; nothing was started.
    """
    plan(**options)
    return _start("run", as_arguments(_typed(options)))


def resume(run_id: str) -> Run:
    """Go on with a run that failed or was interrupted: as `progdistill resume --origin-run-id RUN`."""
    return _start("resume", ["--origin-run-id", run_id])


def _typed(options: Options) -> dict[str, Any]:
    """Options by field, as a command line would give them."""
    known = {option.field for option in RUN_OPTIONS}
    if unknown := sorted(options.keys() - known):
        raise UsageError(f"unknown option {unknown[0]!r}; valid options: {', '.join(sorted(known))}")
    typed: dict[str, Any] = dict(options)
    if "set" in typed:
        typed["set"] = overrides_of(typed["set"], "set")
    return typed


def _start(verb: str, arguments: Sequence[str]) -> Run:
    """Start the flow in a process of its own; return when it has its run id."""
    folder = runs_folder()
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        id_file, log = Path(temporary) / "run_id", folder / f".{os.getpid()}-{time.time_ns()}.log"
        command = [sys.executable, "-m", "progdistill.cli.main", verb, *arguments]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--run-id-file", str(id_file)], stdout=output, stderr=subprocess.STDOUT
            )
        while not (id_file.exists() and (run_id := id_file.read_text().strip())):
            if process.poll() is not None:
                text = log.read_text(errors="replace").strip()
                log.unlink()
                kind = UsageError if process.returncode == UsageError.exit_status else RunFailedError
                raise kind(text.removeprefix("error: "))
            time.sleep(POLL_SECONDS / 10)
    run = Run(run_id, process)
    run.folder.mkdir(exist_ok=True)
    log.replace(run.folder / LOG_FILE)
    return run


def _read_events(path: Path, position: int) -> "tuple[list[Event], int]":
    """The events in the whole lines of a file from `position` on, and where the next one starts."""
    from progdistill.jobs.events import PREFIX, parse_event

    if not path.exists():
        return [], position
    with path.open("rb") as file:
        file.seek(position)
        lines = file.read().rpartition(b"\n")[0].splitlines(keepends=True)
    found = (parse_event(PREFIX + line.decode()) for line in lines)
    return [event for event in found if event is not None], position + sum(map(len, lines))


def evaluation_settings(
    manifest: CheckpointManifest, info: "DatasetInfo", *, sampling_steps: int, changes: dict[str, JsonValue]
) -> "EvaluationSettings":
    """The evaluation settings of the checkpoint's run, else of its dataset's preset, with `changes`.

    Raises UsageError for a change that is not valid.
    """
    from pydantic import ValidationError

    from progdistill.config.overrides import apply_overrides, check_named_files
    from progdistill.config.presets import PRESETS, preset_name_for
    from progdistill.evaluation.config import EvaluationSettings

    recorded = manifest.provenance.configuration.get("evaluation")
    if isinstance(recorded, dict):
        fields = dict(recorded)
    else:
        fields = PRESETS[preset_name_for(info)].evaluation.model_dump(mode="json")
    fields = apply_overrides(fields, {"max_sampling_steps": sampling_steps, **changes})
    check_named_files(fields, changes)
    try:
        return EvaluationSettings.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{'.'.join(map(str, first['loc']))} = {first['input']!r}: {first['msg']}") from None


def _require_sampling(
    count: int, sampling_steps: int | None, sampler: str, gamma: float | None, batch_size: int
) -> None:
    require_between("count", count, 1, MOST_IMAGES)
    require_between("sampling steps", sampling_steps, 1, MOST_STEPS)
    require_between("batch size", batch_size, 1, MOST_IMAGES)
    require_between("gamma", gamma, 0, 1)
    names = [str(name) for name in SamplerName]
    if sampler not in names:
        raise UsageError(f"unknown sampler {sampler!r}; valid samplers: {', '.join(names)}")
    if gamma is not None and sampler != SamplerName.ANCESTRAL:
        raise UsageError(f"gamma is for the sampler {SamplerName.ANCESTRAL}: {sampler} has no variance")
