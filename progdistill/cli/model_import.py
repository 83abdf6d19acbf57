"""`progdistill import`: a model made elsewhere becomes a checkpoint of this store, under a name."""

import argparse
import socket
from importlib.metadata import version
from pathlib import Path

from progdistill.cli.common import add_json_argument, add_store_argument, print_json, store_of
from progdistill.data.catalog import UNKNOWN_DATASET
from progdistill.errors import LostInvariantError, UsageError
from progdistill.models.config import DenoiserConfig
from progdistill.models.export import MANIFEST_FILE, WEIGHTS_FILE
from progdistill.registry.aliases import check_alias_name, move_alias
from progdistill.registry.checkpoint import (
    CheckpointDescription,
    CheckpointIdentity,
    CheckpointKind,
    CheckpointManifest,
    Provenance,
    fetch_weights,
    publish_checkpoint,
)
from progdistill.registry.resolve import resolve_reference
from progdistill.store.base import Store
from progdistill.store.digest import digest_of_file
from progdistill.store.documents import decode
from progdistill.store.open import open_store
from progdistill.training.provenance import RECORDED_PACKAGES, code_version
from progdistill.version import NUMERICS_VERSION


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    text = "make a checkpoint of a diffusers model, of an exported checkpoint, or of one in another store"
    parser = subparsers.add_parser("import", help=text, description=text)
    parser.add_argument("source", metavar="SOURCE", help="a folder; with --from-store a checkpoint there")
    parser.add_argument("--name", required=True, help="alias to give the checkpoint")
    parser.add_argument("--from-store", metavar="URI", help="copy SOURCE from this store")
    parser.add_argument("--dataset", metavar="NAME", help="what it was trained on, if that is not recorded")
    parser.add_argument(
        "--scheduler", type=Path, metavar="FILE", help="scheduler_config.json of its training"
    )
    parser.add_argument("--label-dropout", action="store_true", help="its last class stands for 'no class'")
    parser.add_argument("--allow-pickle", action="store_true", help="read pickled weights, as tensors only")
    add_store_argument(parser)
    add_json_argument(parser)
    parser.set_defaults(run=_import)


def _import(args: argparse.Namespace) -> int:
    check_alias_name(args.name)
    store = store_of(args, may_be_new=True)
    if args.from_store is not None:
        source = open_store(args.from_store, must_exist=True)
        found = resolve_reference(source, args.source)
        _require_dataset(found, args.dataset)
        manifest = _publish_own(store, found, fetch_weights(source, found))
    elif (folder := Path(args.source)).is_dir():
        own = (folder / MANIFEST_FILE).is_file()
        manifest = _import_exported(store, folder, args) if own else _import_diffusers(store, folder, args)
    else:
        raise UsageError(
            f"{args.source} is no folder; download the model first, or name another store with --from-store"
        )
    _require_dataset(manifest, args.dataset)
    move_alias(store, args.name, manifest.id, f"progdistill import@{socket.gethostname()}")
    if args.json:
        print_json({"id": manifest.id, "name": args.name, "kind": str(manifest.identity.kind)})
    else:
        print(f"{args.name} is {manifest.id}")
    return 0


def _require_dataset(manifest: CheckpointManifest, asked: str | None) -> None:
    """Refuse a --dataset that goes nowhere: the first manifest of a checkpoint stays, with what it says."""
    known = manifest.provenance.dataset_name
    if asked not in (None, known):
        raise UsageError(
            f"--dataset {asked}: checkpoint {manifest.id[:12]} was made or imported before with dataset"
            f" {known}, which stays; leave --dataset out: `--from {manifest.id[:12]} --dataset {asked}` says"
            " which images its students learn from"
        )


def _import_exported(store: Store, folder: Path, args: argparse.Namespace) -> CheckpointManifest:
    """A folder written by `progdistill export --format safetensors`."""
    file = folder / MANIFEST_FILE
    manifest = decode(CheckpointManifest, file.read_bytes(), where=str(file))
    _require_dataset(manifest, args.dataset)
    return _publish_own(store, manifest, folder / WEIGHTS_FILE)


def _publish_own(store: Store, manifest: CheckpointManifest, weights: Path) -> CheckpointManifest:
    """Publish weights under the identity they have elsewhere, once they are proven to be those weights."""
    if not weights.is_file():
        raise UsageError(
            f"there is no {weights}, the weights of {manifest.id[:12]}: copy the whole folder again"
        )
    if digest_of_file(weights) != manifest.identity.weights:
        raise LostInvariantError(f"{weights} is not the weights of {manifest.id}: fetch both files again")
    added = CheckpointIdentity.model_fields.keys() - CheckpointDescription.model_fields.keys()
    description = CheckpointDescription(**manifest.identity.model_dump(exclude=set(added)))
    return publish_checkpoint(store, weights, description, manifest.provenance)


def _import_diffusers(store: Store, folder: Path, args: argparse.Namespace) -> CheckpointManifest:
    from progdistill.models.denoiser import save_weights
    from progdistill.models.diffusers_import import read_diffusers

    model = read_diffusers(
        folder,
        scheduler=args.scheduler,
        label_dropout=args.label_dropout,
        allow_pickle=args.allow_pickle,
    )
    weights = store.scratch() / f"import-{args.name.replace('/', '-')}.safetensors"
    save_weights(model.weights, weights)
    return publish_checkpoint(
        store,
        weights,
        _description(model.config),
        _circumstances(store, folder, args.dataset or UNKNOWN_DATASET),
        consume=True,
    )


def _description(config: DenoiserConfig) -> CheckpointDescription:
    """What is known of a model trained elsewhere: not its data, nor its training."""
    return CheckpointDescription(
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


def _circumstances(store: Store, folder: Path, dataset_name: str) -> Provenance:
    code, dirty = code_version()
    return Provenance(
        created_at=store.now(),
        code_version=code,
        code_dirty=dirty,
        packages={name: version(name) for name in RECORDED_PACKAGES},
        device="cpu",
        host=socket.gethostname(),
        created_by=None,
        configuration={"imported_from": str(folder.resolve())},
        dataset_name=dataset_name,
    )
