"""One denoising step as an ONNX file, for runtimes without Python."""

import copy
import math
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from progdistill.errors import UsageError
from progdistill.models.denoiser import Denoiser, Images, Times


class DenoisingStep(nn.Module):
    """One DDIM step (eq. 38): z_s = cos δ · z_t − sin δ · v̂(z_t) with δ = π/2·(t − s)."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self, z: Images, t: Times, t_next: Times, labels: Tensor | None = None, guidance_scale: Times | None = None
    ) -> tuple[Images, Images]:
        """Step from time t to t_next; return z at t_next and v̂ at t."""
        w = None if guidance_scale is None else guidance_scale - 1
        conditioning = None if labels is None else {"label": labels}
        velocity = self.denoiser.velocity(z, t, conditioning, w)
        angle = (math.pi / 2 * (t - t_next))[:, None, None, None]
        return angle.cos() * z - angle.sin() * velocity, velocity


def export_onnx(denoiser: Denoiser, path: Path) -> None:
    """Write a float32 `DenoisingStep` with a dynamic batch size.

    Inputs are z, t, t_next; with classes labels (int64); with a guidance input guidance_scale. Outputs are z_next and
    velocity.

    Raises:
        UsageError: The exporter is not installed, or the model takes prompts.
    """
    if prompts := [column.name for column in denoiser.config.network.columns if column.name != "label"]:
        raise UsageError(
            f"--format onnx is for models without prompts, and this one takes {', '.join(prompts)}: export"
            " diffusers or safetensors"
        )
    if find_spec("onnxscript") is None:
        raise UsageError("this export needs onnx and onnxscript: pip install 'progdistill[onnx]'")
    step = DenoisingStep(copy.deepcopy(denoiser)).cpu().float().eval()
    config = denoiser.config.network
    z = torch.zeros(2, config.image_channels, config.image_size, config.image_size)
    inputs = {"z": z, "t": torch.ones(2), "t_next": torch.zeros(2)}
    if config.num_classes:
        inputs["labels"] = torch.zeros(2, dtype=torch.int64)
    if config.guidance_input:
        inputs["guidance_scale"] = torch.ones(2)
    with warnings.catch_warnings():
        # Every input has the same batch axis, as intended.
        warnings.filterwarnings("ignore", message="# The axis name: batch")
        torch.onnx.export(
            step,
            kwargs=inputs,
            f=path,
            input_names=list(inputs),
            output_names=["z_next", "velocity"],
            dynamic_shapes={name: {0: "batch"} for name in inputs},
            external_data=False,
            verbose=False,
        )
