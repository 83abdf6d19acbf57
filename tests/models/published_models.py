"""Published models without their weights: the configurations in their folders, as `published/NAME.json` holds them."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from progdistill.models.config import DenoiserConfig
from progdistill.models.diffusers_schedule import read_noise
from progdistill.models.networks.registry import diffusers_network
from progdistill.models.pipeline_import import ForeignPipeline, describe_pipeline

FILES = Path(__file__).with_name("published")


class Published(NamedTuple):
    """What an import makes of a model, but its weights."""

    config: DenoiserConfig
    pipeline: ForeignPipeline


def published(name: str, folder: Path) -> Published:
    """Write a model's folder, and read it as the import does."""
    files: dict[str, Any] = json.loads((FILES / f"{name}.json").read_text())
    for file, facts in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(json.dumps(facts))
    network, pipeline = describe_pipeline(folder)
    noise = read_noise(files["scheduler/scheduler_config.json"], folder, diffusers_network(network.class_name)(network))
    config = DenoiserConfig(
        network=network, prediction=noise.prediction, foreign_schedule=noise.schedule, grid=noise.grid
    )
    return Published(config, pipeline)
