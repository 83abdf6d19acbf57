"""Checks before a run: that pods can reach the store and the dataset, and that the cluster allows the run."""

from pathlib import Path

from progdistill.config.cluster import ClusterSettings
from progdistill.data.dataset import DatasetInfo, find_dataset, info_of
from progdistill.data.manifest import read_manifest
from progdistill.errors import UsageError
from progdistill.jobs.kubernetes.api import REQUIRED_PERMISSIONS, ClusterApi, Permission, connect, role_rules
from progdistill.jobs.kubernetes.dry_run import findings
from progdistill.store.open import open_store

CONNECT_SECONDS = 20.0  # for the API server to answer before a run; later cluster.api_timeout_seconds counts


def require_reachable(cluster: ClusterSettings, store: str, world_size: int | None) -> None:
    """Check the settings of a run on a cluster; `world_size` is the setting that only the local launcher takes.

    Raises:
        UsageError: pods cannot reach the store, have no image, the user lacks a permission, or the cluster lacks
            something or would refuse the pods.
        TransientError: the API server does not answer.
    """
    if world_size is not None:
        raise UsageError(
            f"compute.world_size = {world_size} is for the local launcher; on Kubernetes the world size is hosts times"
            " accelerators: --set cluster.train.hosts=… and cluster.distill.hosts=…"
        )
    _require_shared(cluster, store, "store", "give --store s3://bucket/prefix")
    for name in ("train", "distill", "evaluate"):
        if cluster.image_of(getattr(cluster, name)) is None:
            raise UsageError(
                f"no image is set for cluster.{name}: build one from infra/images and give it with"
                " --set cluster.image=REGISTRY/NAME@sha256:… or in progdistill.toml (docs/quickstart/cluster.md)"
            )
    api = connect(cluster.model_copy(update={"api_timeout_seconds": CONNECT_SECONDS}))
    if missing := missing_permissions(api):
        raise UsageError(
            f"missing permissions in namespace {api.namespace} of {api.server}:"
            f" {', '.join(map(str, missing))}.\n{role_rules(missing)}"
        )
    if refusals := findings(api, cluster, store).refusals:
        raise UsageError("the cluster would refuse this run:" + "".join(f"\n  {refusal}" for refusal in refusals))


def missing_permissions(api: ClusterApi) -> list[Permission]:
    """The permissions that a run needs and this user lacks."""
    return [permission for permission in REQUIRED_PERMISSIONS if not api.can_i(permission)]


def dataset_for_pods(cluster: ClusterSettings, name: str, store: str, data_root: Path) -> DatasetInfo:
    """Find a dataset where pods can reach it; the embedded digits are published beside the store's models.

    Raises:
        UsageError: there is no such dataset, or it is in a folder that pods do not mount.
    """
    if name == "digits" and cluster.mount_of(str(data_root.absolute())) is None:
        from progdistill.data.importers.digits import DigitsSource
        from progdistill.data.prepare import prepare

        place, staging = open_store(f"{store}/datasets/digits"), data_root / "staging"
        manifest = read_manifest(place) or prepare(DigitsSource(), "digits", place.uri, staging_root=staging)
        return info_of(manifest, place.uri)
    dataset = find_dataset(name, data_root)
    _require_shared(
        cluster,
        dataset.location,
        f"dataset {dataset.name}",
        f"prepare it in a bucket with `progdistill data prepare {dataset.name} --source PATH --out s3://…`"
        " and give that as --dataset",
    )
    return dataset


def _require_shared(cluster: ClusterSettings, location: str, what: str, advice: str) -> None:
    if "://" not in location and cluster.mount_of(location) is None:
        raise UsageError(
            f"pods cannot reach {what} in the folder {location}: {advice}; or mount a volume at that path"
            ' with --set cluster.volumes={"CLAIM": "PATH"} (docs/quickstart/cluster.md)'
        )
