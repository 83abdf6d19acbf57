"""infra/fill_in.sh: from the templates to the manifests that are applied."""

import subprocess
from pathlib import Path

import pytest
import yaml

from tests.infra.tools import INFRA, ROOT, run, tool

SCRIPT = INFRA / "fill_in.sh"
MINE = {
    "BUCKET": "my-models",
    "REGION": "eu-central-1",
    "ACCOUNT": "123456789012",
    "PROJECT": "my-project",
    "FILE_SYSTEM": "fs-0123",
    "VERSION": "1.2.3",
}


def _fill_in(folder: Path, overlay: str, values: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return run(SCRIPT, folder, f"OVERLAY={overlay}", *(f"{name}={value}" for name, value in values.items()))


def test_shellcheck_has_nothing_to_say() -> None:
    scripts = [ROOT / ".ci" / "run", *INFRA.rglob("*.sh")]
    done = run(tool("shellcheck"), *scripts)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("overlay", ["gpu", "tpu"])
def test_a_filled_in_overlay_renders_with_ones_own_values(overlay: str, tmp_path: Path) -> None:
    done = _fill_in(tmp_path, overlay, MINE)
    assert done.returncode == 0, done.stderr
    rendered = run(tool("kubectl"), "kustomize", tmp_path / "kubernetes" / "overlays" / overlay)
    assert rendered.returncode == 0, rendered.stderr
    (settings,) = [
        one
        for one in yaml.safe_load_all(rendered.stdout)
        if one["kind"] == "ConfigMap" and one["metadata"]["name"] == "progdistill"
    ]
    assert settings["data"]["PROGDISTILL_STORE"] == "s3://my-models/models"
    assert settings["data"]["AWS_REGION"] == "eu-central-1"
    assert "progdistill:1.2.3-cpu" in rendered.stdout
    assert not any(word in rendered.stdout for word in ("BUCKET", "ACCOUNT", "PROJECT", "FILE_SYSTEM"))


@pytest.mark.parametrize("missing", ["BUCKET", "REGION", "ACCOUNT", "FILE_SYSTEM", "VERSION"])
def test_what_is_still_to_be_given_is_named(missing: str, tmp_path: Path) -> None:
    done = _fill_in(tmp_path, "gpu", {name: value for name, value in MINE.items() if name != missing})
    assert done.returncode == 1
    assert missing in done.stderr


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    done = _fill_in(tmp_path, "gpu", {"BUKCET": "typo"})
    assert (done.returncode, done.stderr) == (2, "unknown: BUKCET\n")
