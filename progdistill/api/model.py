"""Load, sample, evaluate and export checkpoints.

    progdistill.load("production").sample(64, seed=0).save("grid.png")

What a command of the same name prints as an error is raised: UsageError for what the caller can correct, another
ProgdistillError otherwise.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict, Unpack

import numpy as np
from pydantic import JsonValue

from progdistill.config.options import DEFAULT_STORE, resolve_options
from progdistill.config.presets import evaluation_settings
from progdistill.data.catalog import UNKNOWN_DATASET
from progdistill.data.dataset import default_data_root, find_dataset, require_data_of
from progdistill.diffusion.names import SamplerName
from progdistill.errors import ProgdistillError, UsageError, require_between
from progdistill.escape import one_line
from progdistill.images import Pixels, encode_png, grid, readable_scale, titled_rows, write_parquet
from progdistill.models.config import DenoiserConfig
from progdistill.models.export import ExportFormat, export_checkpoint
from progdistill.registry.checkpoint import CheckpointManifest, list_manifests
from progdistill.registry.resolve import resolve_reference
from progdistill.store.base import Store
from progdistill.store.open import open_store
from progdistill.training.guidance import guidance_scale_for

if TYPE_CHECKING:  # these import torch
    from progdistill.evaluation.measurement import EvaluationRecord
    from progdistill.models.denoiser import Denoiser

logger = logging.getLogger(__name__)

MOST_IMAGES = 10_000_000
"""Drawn in one call: two hundred times what a published FID takes."""
MOST_STEPS = 2**20
"""Sampling steps in one call: 128 times those of the paper's longest ladder."""


class Samples(NamedTuple):
    """Images drawn from a model; a notebook shows them as a grid."""

    images: Pixels
    """uint8 of shape [count, height, width, channels], with 1 (gray) or 3 (RGB) channels."""
    labels: list[int] | None
    """The class of each image; None for a model without classes."""
    titles: list[str] | None = None
    """The prompt of each image, or the name of its class; None for a model without either."""

    def __repr__(self) -> str:
        count, height, width, channels = self.images.shape
        return f"Samples({count} images of {height}×{width}, {'gray' if channels == 1 else 'RGB'})"

    def grid(self, columns: int | None = None, *, titled: bool = False) -> Pixels:
        """One uint8 image of shape [height, width, channels] with all samples, small ones enlarged.

        Args:
            columns: images in a row; default: about as many as rows.
            titled: a row for each prompt or class, below its title.

        Raises:
            UsageError: titles are wanted of a model without prompts or classes.
        """
        scale = readable_scale(self.images.shape[1])
        if titled and self.titles is None:
            raise UsageError("this model has neither prompts nor classes: leave the titles out")
        if titled and self.titles is not None:
            return titled_rows(self.images, self.titles, scale=scale, most_columns=columns or 16)
        return grid(self.images, columns, scale=scale)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a grid to a .png file, or each image as it is to a .parquet file; return the path."""
        out = Path(path)
        if out.suffix == ".parquet":
            write_parquet(out, [self.images], self.labels)
        elif out.suffix == ".png":
            out.write_bytes(self._repr_png_())
        else:
            raise UsageError(f"{out}: give a file that ends in .png or .parquet")
        return out

    def _repr_png_(self) -> bytes:
        return encode_png(self.grid())


class SamplingOptions(TypedDict, total=False):
    """How to sample a model."""

    seed: int
    """Of the noise; default 0."""
    sampling_steps: int | None
    """Default: those that the student was distilled to."""
    sampler: str
    """A name of `diffusion.names.SamplerName`; default `ddim`."""
    guidance_scale: float | None
    """From 1 (no guidance) upward; default: the lowest that a guided student was trained with."""
    gamma: float | None
    """Variance of ancestral sampling on a logarithmic scale, from 0 to 1; default 0.3, as in evaluations."""
    class_label: int | None
    """The one class to draw; default: all classes in turn."""
    clip: bool
    """Clip x̂ to [−1, 1] in every step; default true. Latents are never clipped."""
    prompts: Sequence[str]
    """For models of text: image i draws prompt i mod their number."""
    batch_size: int
    """Images at once; default 250."""


class Model:
    """A checkpoint that can be sampled, evaluated and exported; `load` returns one.

    Attributes:
        store: the store that holds it.
        reference: how the caller named it.
        manifest: the checkpoint's metadata.
    """

    def __init__(self, store: Store, reference: str, device: str = "auto") -> None:
        self.store, self.reference, self._device = store, reference, device
        self.manifest = resolve_reference(store, reference)

    def __repr__(self) -> str:
        kind, dataset = self.manifest.identity.kind, self.manifest.provenance.dataset_name
        return f"Model({self.id[:12]}, {kind}, {self.sampling_steps or 'any'} sampling steps, {dataset})"

    def _repr_html_(self) -> str:
        return self.manifest._repr_html_()

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
        """The network as a `torch.nn.Module`; read, and its weights verified, on first use."""
        import torch

        from progdistill.models.load import load_denoiser
        from progdistill.training.config import Precision
        from progdistill.training.execution import set_float32_products

        set_float32_products(Precision.FLOAT32, torch.device(self.device))
        return load_denoiser(self.store, self.manifest, self.device)

    def steps_for(self, sampling_steps: int | None) -> int:
        """The requested number of steps, or the student's own by default. UsageError without either."""
        own = self.sampling_steps
        if sampling_steps is None and own is None:
            raise UsageError(
                f"{self.reference} takes any number of sampling steps: say how many, with --sampling-steps N"
                " (in Python sampling_steps=N)"
            )
        if sampling_steps is not None and own is not None and sampling_steps != own:
            logger.warning("note: %s was distilled to %d sampling steps, not %d", self.reference, own, sampling_steps)
        return sampling_steps or own or 1

    def sample(self, count: int = 64, **options: Unpack[SamplingOptions]) -> Samples:
        """Draw `count` images. Image i depends on (seed, i) alone, up to floating-point order in other batch sizes.

        Args:
            count: at least 1.
            **options: see `SamplingOptions`.

        Raises:
            UsageError: an option is out of range, or the model does not support it.
        """
        batches, labels = self.batches(count, **options)
        return Samples(np.concatenate(list(batches)), labels, self.titles(count, labels, options.get("prompts", ())))

    def titles(self, count: int, labels: Sequence[int] | None, prompts: Sequence[str] = ()) -> list[str] | None:
        """What `count` images were drawn for: prompts in turn, or names of their classes, as far as they are known."""
        if prompts:
            return [one_line(prompts[index % len(prompts)]) for index in range(count)]
        if labels is None:
            return None
        names: tuple[str, ...] = ()
        with suppress(ProgdistillError):  # the dataset need not be here
            names = find_dataset(self.manifest.provenance.dataset_name, default_data_root()).class_names
        return [one_line(names[n]) if len(names) == self.config.network.num_classes else f"class {n}" for n in labels]

    def batches(self, count: int, **options: Unpack[SamplingOptions]) -> tuple[Iterator[Pixels], list[int] | None]:
        """As `sample`, batch by batch, for images that need not fit in memory together."""
        from progdistill.evaluation.config import ANCESTRAL_GAMMA
        from progdistill.evaluation.latents import surroundings_of
        from progdistill.evaluation.sampling import generate, labels_of

        _check_sampling(count, options)
        steps = self.steps_for(options.get("sampling_steps"))
        classes, label = self.config.network.num_classes, options.get("class_label")
        if label is not None and not 0 <= label < classes:
            fit = f"give a class from 0 to {classes - 1}" if classes else "this model has no classes"
            raise UsageError(f"class {label}: {fit}")
        labels = labels_of(range(count), classes, label)
        surroundings = surroundings_of(self.store, self.config, options.get("prompts", ()), self.device)
        sampler, gamma = SamplerName(options.get("sampler", SamplerName.DDIM)), options.get("gamma")
        drawn = generate(
            self.denoiser,
            sampler,
            steps,
            indices=range(count),
            seed=options.get("seed", 0),
            batch_size=options.get("batch_size", 250),
            gamma=ANCESTRAL_GAMMA if gamma is None and sampler is SamplerName.ANCESTRAL else gamma,
            guidance_scale=guidance_scale_for(self.manifest, options.get("guidance_scale")),
            clip=options.get("clip", True),
            class_label=label,
            surroundings=surroundings,
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
        """Measure the model's samples, and the undistilled model's, against real images.

        What the store holds already is not measured again.

        Args:
            sampling_steps: default: those that the student was distilled to.
            dataset: with the real images; default: the one the model was trained on.
            baselines: measure the undistilled model at equally many steps too.
            **changes: fields of `evaluation.config.EvaluationSettings`, such as `samples` and `evaluator`;
                default: those of the run that trained the model.

        Raises:
            UsageError: the dataset, a file or a setting cannot be used.
        """
        from progdistill.evaluation.evaluate import evaluate_checkpoint
        from progdistill.evaluation.plan import as_sampled, baseline_of, checked_clip, needs_features
        from progdistill.evaluation.published_statistics import pinned_statistics
        from progdistill.features.weights import check_evaluator, pinned

        name = dataset or self.manifest.provenance.dataset_name
        if name == UNKNOWN_DATASET:
            raise UsageError(
                f"{self.reference}: the dataset of this imported model is unknown: pass dataset=NAME (command line:"
                " --dataset) to choose the images to compare with"
            )
        info = find_dataset(name, default_data_root())
        if dataset is None:
            require_data_of(info, self.manifest.identity.dataset_fingerprint, self.reference)
        steps = sampling_steps or self.steps_for(None)
        recorded = self.manifest.provenance.configuration.get("evaluation")
        settings = pinned(evaluation_settings(recorded, info, sampling_steps=steps, changes=changes))
        if needs_features(settings, self.config, info):
            features = check_evaluator(self.store, settings, as_sampled(self.store, self.config, info))
            settings = checked_clip(pinned_statistics(self.store, settings, features), self.config, info)
        baseline = baseline_of(self.store, self.manifest) if baselines else None
        return evaluate_checkpoint(self.store, self.manifest, baseline, steps, settings, info, device=self.device)

    def export(
        self, out: str | os.PathLike[str], format: ExportFormat = "diffusers", *, guidance_scale: float | None = None
    ) -> float | None:
        """Write the model for other programs, with a model card that shows how to use it.

        Args:
            out: a folder, new or empty.
            format: `diffusers` (a pipeline that stock diffusers loads), `lora` (an adapter alone), `comfyui` (one file
                for Stable Diffusion and SDXL), `safetensors` or `onnx`.
            guidance_scale: to build into a guided student (diffusers and comfyui); default: the lowest it knows.

        Returns:
            The guidance scale that is built in, None where there is none.

        Raises:
            UsageError: the folder holds files, or the format cannot express the model.
        """
        if guidance_scale is not None and format not in ("diffusers", "comfyui"):
            raise UsageError(
                "guidance_scale can only be built into formats diffusers and comfyui; in others it stays an input"
            )
        folder = Path(out)
        if folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty: give a new folder")
        scale = guidance_scale_for(self.manifest, guidance_scale)
        return export_checkpoint(self.store, self.manifest, format, folder, scale)


def load(reference: str, store: str | None = None, *, device: str = "auto") -> Model:
    """Find a checkpoint and return it as a model.

    Args:
        reference: an id, a unique prefix of one, an alias such as `production`, or `DistillFlow/RUN/STEPS`.
        store: folder, `s3://bucket/prefix` or `gs://bucket/prefix`; default: see `open_default_store`.
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
    """The manifests of all checkpoints of a store, the newest last; those that cannot be read are logged."""
    unreadable: list[ProgdistillError] = []
    found = list(list_manifests(open_default_store(store), unreadable))
    for error in unreadable:
        logger.warning("%s", error)
    return sorted(found, key=lambda manifest: manifest.provenance.created_at)


def _check_sampling(count: int, options: SamplingOptions) -> None:
    require_between("count", count, 1, MOST_IMAGES)
    require_between("sampling steps", options.get("sampling_steps"), 1, MOST_STEPS)
    require_between("batch size", options.get("batch_size"), 1, MOST_IMAGES)
    require_between("gamma", options.get("gamma"), 0, 1)
    sampler, names = options.get("sampler", "ddim"), [str(name) for name in SamplerName]
    if sampler not in names:
        raise UsageError(f"unknown sampler {sampler!r}; valid samplers: {', '.join(names)}")
    if options.get("gamma") is not None and sampler != SamplerName.ANCESTRAL:
        raise UsageError(f"gamma is for the sampler {SamplerName.ANCESTRAL}: {sampler} has no variance")
