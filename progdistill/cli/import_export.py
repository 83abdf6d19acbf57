"""`progdistill export` and `progdistill import`: models for other programs, and from elsewhere."""

import argparse
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from progdistill.api.model import Model
from progdistill.cli.common import (
    Verbs,
    add_guidance_scale_argument,
    add_reference_argument,
    add_verb,
    check_output,
    print_json,
    store_of,
    writing,
)
from progdistill.data.catalog import UNKNOWN_DATASET
from progdistill.data.dataset import default_data_root, find_dataset
from progdistill.errors import LostInvariantError, UsageError, require_between
from progdistill.models.export import MANIFEST_FILE, PIPELINE_FILE, PIPELINE_FOLDER, WEIGHTS_FILE, ExportFormat
from progdistill.registry.aliases import check_alias_name, move_alias
from progdistill.registry.checkpoint import (
    CheckpointDescription,
    CheckpointIdentity,
    CheckpointKind,
    CheckpointManifest,
    base_of,
    fetch_weights,
    publish_checkpoint,
)
from progdistill.registry.pipeline import PipelineManifest, copy_pipeline, load_pipeline, publish_pipeline
from progdistill.registry.resolve import resolve_reference
from progdistill.store.base import Store
from progdistill.store.digest import digest_of_file
from progdistill.store.documents import decode
from progdistill.store.open import open_store
from progdistill.training.provenance import provenance
from progdistill.version import NUMERICS_VERSION

if TYPE_CHECKING:
    from progdistill.models.pipeline_import import ForeignModel


def add_parser(verbs: Verbs) -> None:
    """Add both verbs."""
    examples = "progdistill export DistillFlow/RUN/4 --format diffusers --out four-step"
    text = "write a checkpoint for other programs, with a model card"
    export = add_verb(verbs, "export", _export, text, examples=examples)
    add_reference_argument(export)
    export.add_argument("--format", required=True, choices=get_args(ExportFormat))
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder, new or empty")
    add_guidance_scale_argument(export, "guidance scale to build into a guided student")
    text = "make a checkpoint of a diffusers model, of an exported checkpoint, or of one in another store"
    examples = """
        progdistill import DIFFUSERS_FOLDER --name my-model --dataset flowers
        progdistill import DistillFlow/RUN/4 --from-store s3://BUCKET/models --name four-step
        """
    parser = add_verb(verbs, "import", _import, text, examples=examples)
    parser.add_argument(
        "source", metavar="SOURCE", help="a folder, or a file of EDM's tensors; with --from-store a checkpoint there"
    )
    parser.add_argument("--name", required=True, help="alias to give the checkpoint")
    parser.add_argument("--from-store", metavar="URI", help="copy SOURCE from this store")
    parser.add_argument("--dataset", metavar="NAME", help="what it was trained on, if that is not recorded")
    parser.add_argument("--scheduler", type=Path, metavar="FILE", help="scheduler_config.json of its training")
    parser.add_argument("--label-dropout", action="store_true", help="its last class means 'no class'")
    parser.add_argument("--reversed-time", action="store_true", help="its time runs from noise to data, as SiT's")
    parser.add_argument("--allow-pickle", action="store_true", help="read pickled weights, as tensors only")
    text = "height and width of its images, for a latent model or if its sample_size is null"
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help=text)


def _export(args: argparse.Namespace) -> int:
    if args.guidance_scale is not None and args.format not in ("diffusers", "comfyui"):
        raise UsageError("--guidance-scale is for --format diffusers and comfyui; in other formats it stays an input")
    model = Model(store_of(args), args.reference)
    check_output("--out", args.out, folder=True)
    with writing("--out", args.out):
        built_in = model.export(args.out, args.format, guidance_scale=args.guidance_scale)
    if args.json:
        print_json({"checkpoint": model.id, "format": args.format, "out": args.out, "guidance_scale": built_in})
    else:
        guided = "" if built_in is None else f" with guidance scale {built_in:g} built in"
        print(f"{args.out}: {model.id[:12]} as {args.format}{guided}; README.md there shows how to use it")
    return 0


def _import(args: argparse.Namespace) -> int:
    check_alias_name(args.name)
    store = store_of(args, may_be_new=True)
    if args.from_store is not None:
        source = open_store(args.from_store, must_exist=True)
        manifest = resolve_reference(source, args.source)
        _require_dataset(manifest, args.dataset)
        if pipeline := manifest.identity.architecture.get("pipeline"):
            copy_pipeline(source, store, str(pipeline))
        manifest = _publish_own(store, manifest, fetch_weights(source, manifest))
    elif (file := Path(args.source, MANIFEST_FILE)).is_file():
        manifest = decode(CheckpointManifest, file.read_bytes(), where=str(file))
        _require_dataset(manifest, args.dataset)
        _publish_own_pipeline(store, manifest, file.parent)
        manifest = _publish_own(store, manifest, file.parent / WEIGHTS_FILE)
    elif file.parent.exists():
        manifest = _import_foreign(store, file.parent, args)
    else:
        raise UsageError(
            f"{args.source} does not exist; download the model first, or name another store with --from-store"
        )
    _require_dataset(manifest, args.dataset)
    move_alias(store, args.name, manifest.id, f"progdistill import@{socket.gethostname()}")
    if args.json:
        print_json({"id": manifest.id, "name": args.name, "kind": str(manifest.identity.kind)})
    else:
        print(f"{args.name} is {manifest.id}")
    return 0


def _require_dataset(manifest: CheckpointManifest, requested: str | None) -> None:
    """Refuse a --dataset that would have no effect: the first manifest of a checkpoint stays as it is."""
    known = manifest.provenance.dataset_name
    if requested not in (None, known):
        raise UsageError(
            f"--dataset {requested}: checkpoint {manifest.id[:12]} was made or imported before with dataset"
            f" {known}, which stays; leave --dataset out: `--from {manifest.id[:12]} --dataset {requested}`"
            " chooses the dataset of its students"
        )


def _publish_own(store: Store, manifest: CheckpointManifest, weights: Path) -> CheckpointManifest:
    """Publish verified weights under the identity that they have elsewhere."""
    if not weights.is_file():
        raise UsageError(f"there is no {weights}, the weights of {manifest.id[:12]}: copy the whole folder again")
    if digest_of_file(weights) != manifest.identity.weights:
        raise LostInvariantError(f"{weights} is not the weights of {manifest.id}: fetch both files again")
    if manifest.identity.base is not None:
        base_of(store, manifest)
    added = CheckpointIdentity.model_fields.keys() - CheckpointDescription.model_fields.keys()
    description = CheckpointDescription(**manifest.identity.model_dump(exclude=set(added)))
    return publish_checkpoint(store, weights, description, manifest.provenance)


def _publish_own_pipeline(store: Store, manifest: CheckpointManifest, folder: Path) -> None:
    """Publish what an exported latent model needs beside its network, unless the store has it."""
    wanted = manifest.identity.architecture.get("pipeline")
    if wanted is None:
        return
    if (file := folder / PIPELINE_FILE).is_file():
        record = decode(PipelineManifest, file.read_bytes(), where=str(file))
        files = {name: folder / PIPELINE_FOLDER / name for name in record.files}
        if missing := [path for path in files.values() if not path.is_file()]:
            raise UsageError(f"there is no {missing[0]}: copy the whole folder again")
        if publish_pipeline(store, record.facts, files).id != wanted:
            raise LostInvariantError(f"{folder / PIPELINE_FOLDER} is not that of {manifest.id}: copy the folder again")
    load_pipeline(store, str(wanted))


def _image_size_of(dataset: str | None) -> int | None:
    """Height and width of a dataset's images, None if it is not here."""
    if dataset is not None:
        with suppress(UsageError):
            return find_dataset(dataset, default_data_root()).image_size
    return None


def _read_foreign(source: Path, args: argparse.Namespace) -> "ForeignModel":
    """A folder of diffusers, or a file with the tensors of a network of EDM or EDM2."""
    from progdistill.models.diffusers_import import read_diffusers
    from progdistill.models.edm_import import read_edm

    require_between("--image-size", args.image_size, 1, 2**16)
    if source.is_file():
        if args.scheduler is not None or args.image_size is not None or args.reversed_time:
            raise UsageError(
                f"{source} is a file, read as a network of EDM or EDM2, whose noise and size are known: leave out"
                " --scheduler, --image-size and --reversed-time, or give the folder of a model of diffusers"
            )
        return read_edm(source, label_dropout=args.label_dropout, allow_pickle=args.allow_pickle)
    return read_diffusers(
        source,
        scheduler=args.scheduler,
        label_dropout=args.label_dropout,
        image_size=args.image_size,
        default_image_size=_image_size_of(args.dataset),
        reversed_time=args.reversed_time,
        allow_pickle=args.allow_pickle,
    )


def _import_foreign(store: Store, source: Path, args: argparse.Namespace) -> CheckpointManifest:
    from progdistill.models.denoiser import save_weights

    model = _read_foreign(source, args)
    config = model.config
    if model.pipeline is not None:
        from progdistill.models.pipeline_import import keep_pipeline

        config = config.model_copy(update={"pipeline": keep_pipeline(store, model.pipeline)})
    weights = store.scratch() / f"import-{args.name.replace('/', '-')}.safetensors"
    save_weights(model.weights, weights)
    description = CheckpointDescription(
        kind=CheckpointKind.IMPORTED,
        sampling_steps=None,
        prediction=str(config.prediction),
        loss_weight=None,
        architecture=config.model_dump(mode="json"),
        dataset_fingerprint=UNKNOWN_DATASET,
        parent=None,
        training={},
        seed=0,
        numerics_version=NUMERICS_VERSION,
    )
    made = provenance(
        device="cpu",
        configuration={"imported_from": str(source.resolve())},
        dataset_name=args.dataset or UNKNOWN_DATASET,
    )
    return publish_checkpoint(store, weights, description, made, consume=True)
