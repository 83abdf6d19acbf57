"""Metaflow loads the profiles, and they contain only settings that it knows."""

import inspect
import json
import os
import re
import subprocess
import sys
from typing import Any

import metaflow.metaflow_config
import pytest

from tests.infra.tools import INFRA, of_kind

FOLDER = INFRA / "metaflow"
PROFILES = {path.stem.removeprefix("config_"): json.loads(path.read_text()) for path in FOLDER.glob("*.json")}


def _as_metaflow_reads(profile: str, **environment: str) -> dict[str, Any]:
    names = [name.removeprefix("METAFLOW_") for name in PROFILES[profile]]
    names = ["DATASTORE_SYSROOT_S3", *names]
    read = f"{{name: getattr(c, name) for name in {names}}}"
    code = f"import json, metaflow.metaflow_config as c; print(json.dumps({read}))"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("METAFLOW_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, "METAFLOW_HOME": str(FOLDER), "METAFLOW_PROFILE": profile, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_metaflow_takes_every_value_of_a_profile(profile: str) -> None:
    read = _as_metaflow_reads(profile)
    for name, value in PROFILES[profile].items():
        assert read[name.removeprefix("METAFLOW_")] == value, name


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_name_is_a_setting_of_metaflow(profile: str) -> None:
    known = set(re.findall(r'from_conf\(\s*"(\w+)"', inspect.getsource(metaflow.metaflow_config)))
    assert {name.removeprefix("METAFLOW_") for name in PROFILES[profile]} <= known


def test_the_environment_says_what_is_ones_own() -> None:
    read = _as_metaflow_reads("argo", METAFLOW_DATASTORE_SYSROOT_S3="s3://mine/metaflow")
    assert read["DATASTORE_SYSROOT_S3"] == "s3://mine/metaflow"


def test_profiles_hold_no_secret_and_no_bucket_of_others() -> None:
    for profile, settings in PROFILES.items():
        assert not any(word in name for name in settings for word in ("KEY", "SECRET", "TOKEN", "HEADERS"))
        assert ("METAFLOW_DATASTORE_SYSROOT_S3" in settings) == (profile == "desk")


def test_the_argo_profile_names_objects_that_the_manifests_make() -> None:
    argo = PROFILES["argo"]
    accounts = {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in of_kind("base", "ServiceAccount")}
    account = (argo["METAFLOW_KUBERNETES_NAMESPACE"], argo["METAFLOW_KUBERNETES_SERVICE_ACCOUNT"])
    assert account in accounts
    services = {
        f"http://{one['metadata']['name']}.{one['metadata']['namespace']}.svc.cluster.local:"
        f"{one['spec']['ports'][0]['port']}"
        for one in of_kind("metaflow", "Service")
    }
    assert argo["METAFLOW_SERVICE_INTERNAL_URL"] in services
