"""Every command of the README, verbatim and in order, with small settings in `progdistill.toml`."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import diffusers
import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.running import environment, report_of
from tests.jobs.kubernetes_jobs import IMAGE, create_secret, node_environment
from tests.kubernetes_api import running_cluster
from tests.store.s3_server import ENVIRONMENT, s3_endpoint

__all__ = ["s3_endpoint"]

ROOT = Path(__file__).parents[2]
SMALL = """base-updates = 4
updates-per-stage = 2
[set]
"base.batch_size" = 8
"distill.batch_size" = 8
"evaluation.samples" = 12
"evaluation.max_sampling_steps" = 4
"cluster.env_from_secrets" = ["s3"]
"""


def commands() -> list[str]:
    """The indented lines that a reader types; `make` lines are what starts this test, the demo is a run."""
    text = re.sub(r"```python\n.*?```", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    found = [line.strip() for line in re.findall(r"(?m)^    (\S.*)$", text)]
    return [line for line in found if not line.startswith("make ")]


def in_place(command: str, folder: Path, runs: list[str]) -> list[str]:
    """The words of a command, with this folder's things for the words in capitals."""
    here = {
        ".venv/bin/python": sys.executable,
        ".venv/bin/progdistill": f"{sys.executable} -m progdistill.cli.main",
        "flows/distill_flow.py": str(ROOT / "flows" / "distill_flow.py"),
        "FOLDER_OF_IMAGES": str(folder / "images"),
        "DIFFUSERS_FOLDER": str(folder / "unet"),
        "BUCKET": "readme",
        "IMAGE": IMAGE,
    }
    if runs:
        here |= {"OTHER_RUN": runs[0], "RUN": runs[-1]}
    for word, value in here.items():
        command = re.sub(rf"(?<![A-Z_]){re.escape(word)}(?![A-Z_])", value, command)
    return shlex.split(command)


def make_images(folder: Path) -> None:
    """Two classes of pictures of several sizes."""
    random = np.random.default_rng(0)
    for label in ("rose", "tulip"):
        (folder / label).mkdir(parents=True)
        for number in range(12):
            pixels = random.integers(0, 256, (70 + number, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")


def make_diffusers_model(folder: Path) -> None:
    """An ε-model of one width, untrained: small enough for a test."""
    blocks = 2
    network = diffusers.UNet2DModel(
        sample_size=64,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * blocks,
        up_block_types=("UpBlock2D",) * blocks,
        norm_num_groups=8,
    )
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler()).save_pretrained(folder)


@pytest.fixture
def access(s3_endpoint: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Variables that lead to a bucket and to a cluster whose pods find its credentials in a Secret."""
    urlopen(Request(f"{s3_endpoint}/readme", method="PUT")).close()
    here = {**ENVIRONMENT, "AWS_ENDPOINT_URL_S3": s3_endpoint, "PROGDISTILL_CACHE": str(tmp_path / "cache")}
    (tmp_path / "cluster").mkdir()
    with running_cluster(tmp_path / "cluster", node_environment=node_environment()) as cluster:
        create_secret(cluster, "s3", here)
        yield {
            **here,
            "KUBECONFIG": str(cluster.kubeconfig),
            "METAFLOW_DATASTORE_SYSROOT_S3": "s3://readme/metaflow",
            "METAFLOW_S3_ENDPOINT_URL": s3_endpoint,
        }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_command_does_what_it_says(access: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "progdistill.toml").write_text(SMALL)
    make_images(tmp_path / "images")
    make_diffusers_model(tmp_path / "unet")
    surroundings = environment(**access)
    runs: list[str] = []
    for command in commands():
        words = in_place(command, tmp_path, runs)
        done = subprocess.run(words, cwd=tmp_path, env=surroundings, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        if re.search(r"(flow.py|progdistill) run ", command):
            runs.append(report_of(tmp_path)["run_id"])
    assert len(set(runs)) == len(runs) == 8
    for made in ("lineage.html", "grid.png", "four-step/scheduler", "comparison/comparison.html"):
        assert (tmp_path / made).exists(), made
