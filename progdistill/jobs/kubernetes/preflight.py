"""What is refused before anything starts: what pods could not reach, and what the cluster does not allow."""

from pathlib import Path

from progdistill.config.cluster import ClusterSettings
from progdistill.data.dataset import DatasetInfo, find_dataset, info_of
from progdistill.data.manifest import read_manifest
from progdistill.errors import UsageError
from progdistill.jobs.kubernetes.api import (
    JOBSET_PERMISSIONS,
    REQUIRED_PERMISSIONS,
    ClusterApi,
    Permission,
    connect,
    rules,
)
from progdistill.store.open import open_store

PATIENCE_SECONDS = 20.0
"""How long a cluster may take to answer before a run; while it runs, cluster.api_patience_seconds counts."""


def require_reachable(cluster: ClusterSettings, store: str, world_size: int | None) -> None:
    """Raise UsageError unless pods can reach the store, have an image, and the cluster lets us run them."""
    if world_size is not None:
        raise UsageError(
            f"compute.world_size = {world_size} is for the launcher local; under kubernetes ranks are hosts"
            " times accelerators: --set cluster.train.hosts=… and cluster.distill.hosts=…"
        )
    _require_shared(cluster, store, "store", "give --store s3://bucket/prefix")
    for name in ("train", "distill", "evaluate"):
        if cluster.image_of(getattr(cluster, name)) is None:
            raise UsageError(
                f"no image is set for cluster.{name}: build one from infra/images and name it with"
                " --set cluster.image=REGISTRY/NAME@sha256:… or in progdistill.toml"
            )
    api = connect(cluster.model_copy(update={"api_patience_seconds": PATIENCE_SECONDS}))
    missing = missing_permissions(api, cluster)
    if missing:
        said = ", ".join(map(str, missing))
        raise UsageError(
            f"you may not do this in namespace {api.namespace} of {api.server}: {said}.\n{rules(missing)}"
        )


def missing_permissions(api: ClusterApi, cluster: ClusterSettings) -> list[Permission]:
    """What the cluster says we may not do, of what a run needs."""
    wanted = REQUIRED_PERMISSIONS
    if cluster.use_jobset:
        kept = tuple(p for p in wanted if p.resource not in ("jobs", "services"))
        wanted = (*JOBSET_PERMISSIONS, *kept)
    return [permission for permission in wanted if not api.may(permission)]


def dataset_for_pods(cluster: ClusterSettings, name: str, store: str, data_root: Path) -> DatasetInfo:
    """Find the dataset where pods reach it; the embedded digits are put beside the models.

    Raises UsageError for a dataset in a folder that pods do not have.
    """
    if name == "digits" and cluster.mount_of(str(data_root.absolute())) is None:
        return _digits_in(f"{store}/datasets/digits", data_root)
    dataset = find_dataset(name, data_root)
    advice = (
        f"prepare it in a bucket with `progdistill data prepare {dataset.name} --source PATH --out s3://…`"
    )
    _require_shared(
        cluster, dataset.location, f"dataset {dataset.name}", f"{advice} and give that as --dataset"
    )
    return dataset


def _digits_in(location: str, data_root: Path) -> DatasetInfo:
    from progdistill.data.importers.digits import DigitsSource
    from progdistill.data.prepare import prepare

    place = open_store(location)
    manifest = read_manifest(place) or prepare(
        DigitsSource(), "digits", location, staging_root=data_root / "staging"
    )
    return info_of(manifest, place.uri)


def _require_shared(cluster: ClusterSettings, location: str, what: str, advice: str) -> None:
    if "://" not in location and cluster.mount_of(location) is None:
        raise UsageError(
            f"pods cannot reach {what} in the folder {location}: {advice}; or mount a volume that has it at"
            ' that path with --set cluster.volumes={"CLAIM": "PATH"}'
        )
