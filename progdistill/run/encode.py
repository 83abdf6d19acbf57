"""Encoding a dataset: from a command's options to a job, and its launch."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from progdistill.config.cluster import ClusterSettings
from progdistill.config.overrides import Override, set_field
from progdistill.config.settings import LauncherName
from progdistill.data.columns import CAPTION, LABEL
from progdistill.data.dataset import DatasetInfo, default_data_root, find_dataset
from progdistill.errors import UsageError
from progdistill.jobs.local import LocalLauncher
from progdistill.jobs.result_cache import Launcher, complete
from progdistill.jobs.spec import DatasetOutput, EncodeSpec, JobRequest
from progdistill.models.config import DenoiserConfig, DiffusersConfig
from progdistill.models_base import Frozen, first_problem
from progdistill.registry.resolve import resolve_reference
from progdistill.run.prepare import runs_folder
from progdistill.run.ranks import world_size_here
from progdistill.store.base import Store
from progdistill.training.config import ComputeSettings, Precision, SnapshotSettings

SECTIONS: Final = ("compute", "cluster")


class EncodeSettings(Frozen):
    """Where and how an encoding computes."""

    compute: ComputeSettings = ComputeSettings()
    cluster: ClusterSettings = ClusterSettings()


class EncodeOptions(NamedTuple):
    """What the user chose; None: the default."""

    dataset: str
    pipeline: str
    name: str | None = None
    out: str | None = None
    template: str | None = None
    negative_prompt: str = ""
    keep_images: bool = False
    half: bool = False
    batch_size: int = 16
    launcher: LauncherName = LauncherName.LOCAL
    set: tuple[Override, ...] = ()


def encode_dataset(store: Store, options: EncodeOptions) -> DatasetInfo:
    """Encode a dataset, unless that was done before; return the encoded one.

    Raises:
        UsageError: The dataset lacks what the network is conditioned on, or the checkpoint has no pipeline.
        ProgdistillError: The job failed or was interrupted; the same call resumes it.
    """
    settings = _settings(options.set)
    root = default_data_root()
    dataset = find_dataset(options.dataset, root)
    if options.launcher is LauncherName.KUBERNETES:
        from progdistill.jobs.kubernetes.preflight import dataset_for_pods, require_reachable

        require_reachable(settings.cluster, store.uri, settings.compute.world_size)
        dataset = dataset_for_pods(settings.cluster, options.dataset, store.uri, root)
    spec = _spec(store, options, settings, dataset)
    request = JobRequest(
        spec=spec,
        store=store.uri,
        dataset=dataset,
        snapshots=SnapshotSettings(),
        compute=settings.compute,
        created_by="progdistill data encode",
        configuration=settings.model_dump(mode="json"),
        driver_process_id=os.getpid(),
    )
    result, _ = complete(store, _launcher(store, options, settings), request)
    return find_dataset(result.output_of(DatasetOutput).location, root)


def _settings(overrides: Sequence[Override]) -> EncodeSettings:
    fields: dict[str, Any] = EncodeSettings().model_dump(mode="json")
    for override in overrides:
        if override.section not in SECTIONS:
            raise UsageError(f"--set {override.path}: encoding takes settings of {' and '.join(SECTIONS)} only")
        set_field(fields, override, EncodeSettings)
    try:
        return EncodeSettings.model_validate(fields)
    except ValidationError as error:
        raise UsageError(first_problem(error)) from None


def _spec(store: Store, options: EncodeOptions, settings: EncodeSettings, dataset: DatasetInfo) -> EncodeSpec:
    pipeline, network = pipeline_of(store, options.pipeline)
    columns = tuple(column for column in network.columns if column.name != LABEL)
    name = options.name or f"{dataset.name}-encoded"
    local = settings if options.launcher is LauncherName.LOCAL else None
    return EncodeSpec(
        dataset_fingerprint=dataset.fingerprint,
        seed=0,
        world_size=world_size_here(settings.compute) if local else settings.cluster.evaluate.world_size,
        name=name,
        out=_location(options, name),
        pipeline=pipeline,
        sample_shape=network.sample_shape,
        columns=columns,
        template=_template(options, dataset) if columns else None,
        negative_prompt=options.negative_prompt,
        keep_images=options.keep_images,
        half=options.half,
        batch_size=options.batch_size,
        precision=Precision.BFLOAT16 if settings.compute.precision == "bfloat16" else Precision.FLOAT32,
    )


def pipeline_of(store: Store, reference: str) -> tuple[str, DiffusersConfig]:
    """The id of the pipeline of a folder or of a checkpoint, and what its network takes.

    Raises:
        UsageError: The checkpoint is of a model of pixels, or the folder holds no pipeline.
    """
    if (folder := Path(reference).expanduser()).is_dir():
        from progdistill.models.pipeline_import import describe_pipeline, keep_pipeline

        network, pipeline = describe_pipeline(folder)
        return keep_pipeline(store, pipeline), network
    manifest = resolve_reference(store, reference)
    config = DenoiserConfig.of(manifest.identity)
    if config.pipeline is None or not isinstance(config.network, DiffusersConfig):
        raise UsageError(
            f"--pipeline {reference}: {manifest.id[:12]} is a model of pixels, which needs no encoding: use the dataset"
            " as it is"
        )
    return config.pipeline, config.network


def _location(options: EncodeOptions, name: str) -> str:
    if options.out is not None:
        return options.out if "://" in options.out else str(Path(options.out).expanduser().absolute())
    if options.launcher is LauncherName.KUBERNETES:
        raise UsageError("--launcher kubernetes needs --out s3://bucket/prefix, which pods can reach")
    return str((default_data_root() / name).absolute())


def _template(options: EncodeOptions, dataset: DatasetInfo) -> str | None:
    """The template of prompts; None: the dataset's captions."""
    has_captions = any(column.name == CAPTION for column in dataset.columns)
    if options.template is None and has_captions:
        return None
    if not dataset.class_names:
        cure = "leave --template out" if has_captions else "prepare it again with --captions NAME"
        raise UsageError(f"dataset {dataset.name} has no {'classes' if has_captions else 'captions'}: {cure}")
    if options.template is None:
        raise UsageError(
            f"dataset {dataset.name} has classes but no captions: make prompts of them with"
            ' --template "a photo of {class}", or prepare it again with --captions NAME'
        )
    if "{class}" not in options.template:
        raise UsageError(f"--template {options.template!r} does not contain {{class}}")
    return options.template


def _launcher(store: Store, options: EncodeOptions, settings: EncodeSettings) -> Launcher:
    folder = runs_folder() / "encode"
    if options.launcher is LauncherName.LOCAL:
        return LocalLauncher(folder)
    from progdistill.jobs.kubernetes.launcher import KubernetesLauncher

    return KubernetesLauncher(store, settings.cluster, folder)
