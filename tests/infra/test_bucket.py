"""The bucket's rules fit the store: every request is allowed, and only scratch expires."""

import ast
import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from progdistill.data import prepare as publish
from progdistill.registry import gc
from progdistill.store import layout
from progdistill.store.digest import PART_BYTES
from progdistill.store.layout import blob_key
from progdistill.store.s3 import S3Store
from tests.infra.policies import BUCKET, allows, statements, template
from tests.infra.tools import INFRA, ROOT
from tests.store.s3_server import s3_endpoint, s3_uri

__all__ = ["s3_endpoint", "s3_uri"]

READER = ("ReaderPolicy",)
WORKER = ("WorkerPolicy",)
DRIVER = ("WorkerPolicy", "DriverPolicy")
MAINTENANCE = ("ReaderPolicy", "MaintenancePolicy")

ACTIONS = {
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "DeleteObject": "s3:DeleteObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListObjectsV2": "s3:ListBucket",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
}
"""Which permission S3 wants for each operation of its API (AWS's service authorization reference)."""


SENT_BY_BOTO3 = {"GetObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"}
"""Operations of its transfers, besides those that the store sends itself."""


def _operations_in_code() -> set[str]:
    """Every operation that the S3 store's code calls or pages through."""
    names = {"".join(part.title() for part in one.split("_")) for one in _client_methods()}
    return names & set(boto3.session.Session().client("s3", region_name="us-east-1").meta.service_model.operation_names)


def _client_methods() -> Iterator[str]:
    for path in (ROOT / "progdistill" / "store").glob("s3*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = ast.unparse(node.func.value)
            if node.func.attr == "get_paginator":
                yield ast.literal_eval(node.args[0])
            elif owner.split(".")[-1] in ("client", "_client"):
                yield node.func.attr


def test_the_permission_of_every_operation_in_the_code_is_known() -> None:
    assert _operations_in_code() | SENT_BY_BOTO3 == set(ACTIONS)


Recorded = list[tuple[str, str]]


@pytest.fixture
def recorded(s3_uri: str) -> Callable[[], tuple[S3Store, Recorded]]:
    """A store in a bucket of its own, with the (action, resource) of every request that it sends."""
    bucket = f"policies-{uuid.uuid4().hex}"
    boto3.session.Session().client("s3").create_bucket(Bucket=bucket)

    def opened() -> tuple[S3Store, Recorded]:
        store, sent = S3Store(f"s3://{bucket}/models"), list[tuple[str, str]]()

        def note(params: dict[str, Any], model: Any, **_: Any) -> None:
            key = params.get("Key")
            sent.append((ACTIONS[model.name], BUCKET if key is None else f"{BUCKET}/{key}"))

        store._client.meta.events.register("before-parameter-build.s3", note)
        return store, sent

    return opened


def _forbidden(sent: Recorded, *policies: str) -> Recorded:
    assert sent
    return [one for one in dict.fromkeys(sent) if not allows(policies, *one)]


def _work(store: S3Store, folder: Path) -> None:
    """What a worker does: everything a store can but collecting garbage."""
    path = folder / "weights"
    path.write_bytes(b"w" * (PART_BYTES + 1))
    store.check_writable()
    digest = store.upload(path, blob_key)
    store.download(blob_key(digest.sha256), digest)
    assert store.put_if_absent(layout.checkpoint_key("a" * 64), b"manifest")
    seen = store.read_versioned(layout.checkpoint_key("a" * 64))
    assert seen is not None and store.read("jobs/b/result.json") is None
    assert store.compare_and_swap(layout.checkpoint_key("a" * 64), b"repaired", seen.version)
    for scratch in (layout.SNAPSHOTS, layout.SHARDS, layout.LIVE):
        store.write(f"{scratch}c/1", b"scratch")
        assert [item.key for item in store.list(scratch)] == [f"{scratch}c/1"]
        store.delete(f"{scratch}c/1")
    store.now()


def test_a_workers_policy_allows_all_that_it_does(
    recorded: Callable[[], tuple[S3Store, Recorded]], tmp_path: Path
) -> None:
    store, sent = recorded()
    _work(store, tmp_path)
    assert _forbidden(sent, *WORKER) == []
    unused = {"s3:AbortMultipartUpload", "s3:ListBucketMultipartUploads"}
    assert {action for action, _ in sent} == set(ACTIONS.values()) - unused


def test_a_failed_upload_can_be_aborted_where_it_was_begun() -> None:
    for policies, key in ((WORKER, "models/blobs/x"), (DRIVER, "datasets/digits/x")):
        assert allows(policies, "s3:AbortMultipartUpload", f"{BUCKET}/{key}")


def test_a_readers_policy_allows_reading_and_refuses_writing(
    recorded: Callable[[], tuple[S3Store, Recorded]], tmp_path: Path
) -> None:
    writer, _ = recorded()
    path = tmp_path / "weights"
    path.write_bytes(b"w" * (PART_BYTES + 1))
    digest = writer.upload(path, blob_key)
    store, sent = recorded()
    list(store.list(""))
    store.read("store.json")
    store.verify(blob_key(digest.sha256), digest)
    store.now()
    assert _forbidden(sent, *READER) == []
    store.write("jobs/a/result.json", b"x")
    assert _forbidden(sent, *READER) == [("s3:PutObject", f"{BUCKET}/models/jobs/a/result.json")]


def test_maintenances_policy_allows_collecting_garbage(
    recorded: Callable[[], tuple[S3Store, Recorded]], tmp_path: Path
) -> None:
    worker, _ = recorded()
    _work(worker, tmp_path)
    worker._client.create_multipart_upload(Bucket=worker._bucket_name, Key="models/blobs/unfinished")
    store, sent = recorded()
    store.check_writable()
    garbage = gc.find_garbage(store, grace=timedelta(seconds=-60))
    removed = gc.remove_garbage(store, garbage._replace(before=datetime.now(UTC) + timedelta(days=1)))
    assert removed > len(garbage.objects) > 0, "an unfinished upload goes too"
    assert _forbidden(sent, *MAINTENANCE) == []
    assert {"s3:AbortMultipartUpload", "s3:DeleteObject"} <= {action for action, _ in sent}


@pytest.mark.parametrize("folder", ["blobs/", "checkpoints/", "jobs/", "aliases/", "runs/", "reports/", "evaluations/"])
def test_no_worker_or_driver_can_remove_what_a_run_left(folder: str) -> None:
    for policies in (READER, WORKER, DRIVER):
        assert not allows(policies, "s3:DeleteObject", f"{BUCKET}/models/{folder}x/result.json")
    assert allows(MAINTENANCE, "s3:DeleteObject", f"{BUCKET}/models/{folder}x/result.json")


def test_nobody_can_remove_a_version_for_good_or_change_the_bucket() -> None:
    granted = {
        action
        for policy in ("ReaderPolicy", "WorkerPolicy", "DriverPolicy", "MaintenancePolicy", "UiPolicy")
        for statement in statements(policy)
        for action in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])
    }
    assert granted <= set(ACTIONS.values())


def test_drivers_have_metaflows_datastore_and_workers_have_not() -> None:
    for action in ("s3:GetObject", "s3:PutObject"):
        assert allows(DRIVER, action, f"{BUCKET}/metaflow/DistillFlow/1")
        assert not allows(WORKER, action, f"{BUCKET}/metaflow/DistillFlow/1")


@pytest.mark.parametrize("dataset", ["datasets/flowers", "models/datasets/digits"])
def test_drivers_can_publish_a_dataset_and_remove_its_mark_alone(dataset: str) -> None:
    assert allows(DRIVER, "s3:PutObject", f"{BUCKET}/{dataset}/manifest.json")
    assert allows(DRIVER, "s3:DeleteObject", f"{BUCKET}/{dataset}/{publish.UPLOADING_KEY}")
    assert not allows(DRIVER, "s3:DeleteObject", f"{BUCKET}/{dataset}/manifest.json")


def test_drivers_can_remove_the_request_of_a_job_but_not_its_result() -> None:
    assert allows(DRIVER, "s3:DeleteObject", f"{BUCKET}/models/{layout.job_request_key('a' * 64)}")
    assert not allows(DRIVER, "s3:DeleteObject", f"{BUCKET}/models/{layout.job_result_key('a' * 64)}")
    assert not allows(WORKER, "s3:DeleteObject", f"{BUCKET}/models/{layout.job_request_key('a' * 64)}")


def _rules() -> list[dict[str, Any]]:
    configuration = template("storage.yaml")["Resources"]["Bucket"]["Properties"]["LifecycleConfiguration"]
    return list(configuration["Rules"])


SCRATCH = {layout.SNAPSHOTS, layout.SHARDS, layout.PROBES}


def test_only_scratch_expires_and_all_of_it_does() -> None:
    expiring = {rule["Prefix"] for rule in _rules() if "ExpirationInDays" in rule}
    assert expiring == {f"models/{folder}" for folder in SCRATCH}
    records = {layout.CHECKPOINTS, layout.ALIASES, layout.RUNS, layout.REPORTS, layout.EVALUATIONS}
    kept = records | {"blobs/", "jobs/"}
    assert not any(f"models/{folder}".startswith(prefix) for folder in kept for prefix in expiring)


def test_scratch_outlives_the_grace_of_garbage_collection() -> None:
    smallest = template("storage.yaml")["Parameters"]["SnapshotDays"]["MinValue"]
    assert smallest >= gc.DEFAULT_GRACE.days
    (aborting,) = [rule for rule in _rules() if "AbortIncompleteMultipartUpload" in rule]
    assert aborting["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] >= gc.DEFAULT_GRACE.days


def test_removed_objects_can_be_brought_back_for_a_while() -> None:
    bucket = template("storage.yaml")["Resources"]["Bucket"]
    assert bucket["Properties"]["VersioningConfiguration"] == {"Status": "Enabled"}
    assert bucket["DeletionPolicy"] == bucket["UpdateReplacePolicy"] == "Retain"


def test_other_s3_servers_get_the_same_rules(s3_uri: str) -> None:
    wanted = json.loads((INFRA / "aws" / "lifecycle.json").read_text())
    defaults = template("storage.yaml")["Parameters"]
    named = {rule["ID"]: rule for rule in wanted["Rules"]}
    assert set(named) == {rule["Id"] for rule in _rules()}
    for rule in _rules():
        other = named[rule["Id"]]
        assert other["Filter"]["Prefix"] == rule.get("Prefix", "")
        for ours, theirs in (("ExpirationInDays", "Expiration"), ("NoncurrentVersionExpiration",) * 2):
            days = rule.get(ours)
            days = days["NoncurrentDays"] if isinstance(days, dict) else days
            days = defaults[days.split()[1]]["Default"] if isinstance(days, str) else days
            there = other.get(theirs, {})
            assert there.get("Days", there.get("NoncurrentDays")) == days
    client = boto3.session.Session().client("s3")
    client.create_bucket(Bucket="rules")
    client.put_bucket_lifecycle_configuration(Bucket="rules", LifecycleConfiguration=wanted)
    accepted = client.get_bucket_lifecycle_configuration(Bucket="rules")["Rules"]
    assert {rule["ID"] for rule in accepted} == set(named)
