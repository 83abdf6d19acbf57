"""The component `alerts`: it renders with every overlay, and its rules are about metrics that exist."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from progdistill.run.metrics import METRICS
from tests.infra.tools import KUBERNETES, OVERLAYS, tool


def rendered(overlay: str, folder: Path) -> list[dict[str, Any]]:
    """The objects of an overlay with the component."""
    paths = {name: f"{KUBERNETES}/{name}" for name in (overlay, "components/alerts")}
    up = "../" * len(folder.parts)
    kustomization = {"resources": [up + paths[overlay]], "components": [up + paths["components/alerts"]]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization).replace(f"{up}/", up))
    command = [tool("kubectl"), "kustomize", str(folder), "--load-restrictor", "LoadRestrictionsNone"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_metrics_are_pushed_to_a_place_that_the_pod_may_reach_and_alerts_are_about_them(
    overlay: str, tmp_path: Path
) -> None:
    found = {
        (one["kind"], one["metadata"]["name"]): one["spec"] for one in rendered(overlay, tmp_path) if "spec" in one
    }
    job = found["CronJob", "metrics"]
    assert job["suspend"] is False
    pod = job["jobTemplate"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["args"][-2:] == ["--metrics", "http://prometheus-pushgateway.monitoring:9091"]
    policy = found["NetworkPolicy", "maintenance-to-pushgateway"]
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert policy["egress"][0]["ports"] == [{"protocol": "TCP", "port": 9091}]
    text = yaml.safe_dump(found["PrometheusRule", "progdistill"])
    ours = set(re.findall(r"progdistill_(\w+)", text))
    assert ours and ours <= {metric.name for metric in METRICS}
