"""Publishes small models, runs `export` and `import`, and runs the code of the model card."""

import argparse
import os
import re
from pathlib import Path
from typing import Any

from progdistill.cli import import_export
from progdistill.logs import configure_logging
from progdistill.models.denoiser import Denoiser, save_weights, weights_of
from progdistill.registry.checkpoint import CheckpointKind, TrainingFigures, publish_checkpoint
from progdistill.store.base import Store
from tests.registry.samples import description, provenance


def run(store: Store, *words: object) -> int:
    """Run `progdistill <words> --store <store>`; returns the exit status."""
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    import_export.add_parser(subparsers)
    configure_logging()
    args = parser.parse_args([*map(str, words), "--store", store.uri])
    status: int = args.run(args)
    return status


def publish(store: Store, denoiser: Denoiser, folder: Path) -> str:
    """Publish a model as a base model and as its own student of 4 steps; returns the student's id.

    A model that has guidance as an input was trained with scales from 2 to 5.
    """
    weights, parent = folder / "weights.safetensors", None
    guided = denoiser.config.network.guidance_input
    save_weights(weights_of(denoiser), weights)
    for kind, steps in ((CheckpointKind.BASE, None), (CheckpointKind.STUDENT, 4)):
        identity = description(
            kind=kind,
            sampling_steps=steps,
            parent=parent,
            prediction=str(denoiser.config.prediction),
            architecture=denoiser.config.model_dump(mode="json"),
            training={"guidance_scale": {"lowest": 2, "highest": 5}} if guided else {},
        )
        figures = TrainingFigures(updates=200, images=12800, seconds=20, images_per_second=640, final_loss=0.25)
        parent = publish_checkpoint(store, weights, identity, provenance(figures=figures)).id
    assert parent is not None
    return parent


def follow_card(folder: Path) -> dict[str, Any]:
    """Run the Python of a model card in its folder, as its reader would; returns the variables."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    before, variables = Path.cwd(), dict[str, Any]()
    os.chdir(folder)
    try:
        exec(code, variables)
    finally:
        os.chdir(before)
    return variables
