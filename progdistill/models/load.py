"""Loads a checkpoint: its verified weights, in the network that its manifest describes."""

from pathlib import Path

import torch

from progdistill.errors import LostInvariantError
from progdistill.models.adapters import merged
from progdistill.models.config import DenoiserConfig
from progdistill.models.denoiser import Denoiser, mismatch, unallocated
from progdistill.registry.checkpoint import CheckpointManifest, base_of, fetch_weights
from progdistill.store.base import Store
from progdistill.store.tensors import load_tensors


def denoiser_from_file(config: DenoiserConfig, path: Path) -> Denoiser:
    """Build a denoiser on the CPU with the weights of a safetensors file, in float32.

    Raises LostInvariantError when a name or a shape differs from what the configuration requires.
    """
    found = load_tensors(path)
    denoiser = unallocated(config)
    if problem := mismatch(found, denoiser.state_dict()):
        raise LostInvariantError(f"{path} does not hold this architecture's weights: {problem}")
    if odd := [name for name, tensor in found.items() if not tensor.is_floating_point()]:
        raise LostInvariantError(f"{path}: {odd[0]} holds {found[odd[0]].dtype}, not numbers in floating point")
    # Copied, because safetensors maps the file: its tensors are not aligned as torch aligns its own.
    weights = {name: tensor.to(torch.float32, copy=True) for name, tensor in found.items()}
    denoiser.load_state_dict(weights, assign=True)
    return denoiser


def load_denoiser(
    store: Store, manifest: CheckpointManifest, device: torch.device | str = "cpu", *, compiled: bool = False
) -> Denoiser:
    """Load a checkpoint's denoiser in float32, in evaluation mode and without gradients.

    A LoRA comes merged into the weights of its base.

    Args:
        store: Where the checkpoint is; its weights are verified against their digest before they are parsed.
        manifest: The checkpoint.
        device: Where the weights are placed.
        compiled: Whether torch.compile makes one program of the network, anew for each size of a batch.

    Raises:
        LostInvariantError: The weights are missing or damaged, or belong to another architecture.
        UsageError: The store does not have the base of a LoRA.
    """
    config = DenoiserConfig.of(manifest.identity)
    if config.lora is None:
        denoiser = denoiser_from_file(config, fetch_weights(store, manifest))
    else:
        base = load_denoiser(store, base_of(store, manifest))
        denoiser = merged(base, config, load_tensors(fetch_weights(store, manifest)))
    if compiled:
        denoiser.network.compile(dynamic=False)
    return denoiser.to(device).eval().requires_grad_(False)
