"""The memory of one rank: of its training state by arithmetic, of its activations from the network's own shapes."""

import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from progdistill.models.config import DenoiserConfig
from progdistill.progress import readable_bytes
from progdistill.training.config import OptimizerName, TrainingSettings

if TYPE_CHECKING:
    from progdistill.models.denoiser import Denoiser

FLOAT_BYTES = 4
OPTIMIZER_BYTES = {OptimizerName.ADAMW: 8, OptimizerName.ADAMW_8BIT: 2 * (1 + 4 / 256), OptimizerName.MUON: 4}
"""Of a parameter: two moments in float32, or in 8 bits with a float32 scale for each 256; one of a matrix with Muon."""


class StateMemory(NamedTuple):
    """Bytes of a training's state under DDP, from one update to the next, and of its gradients."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    frozen: int
    """The teacher, and the base of a LoRA."""

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)

    def __str__(self) -> str:
        parts = {name: size for name, size in self._asdict().items() if size}
        return ", ".join(f"{name} {readable_bytes(size)}" for name, size in parts.items())


def state_memory(training: TrainingSettings, trained: int, frozen: int = 0, frozen_bytes: int = 4) -> StateMemory:
    """The memory of a training's state.

    Args:
        training: Decides the optimizer and whether there is a moving average.
        trained: Number of parameters that are trained.
        frozen: Number of parameters of the teacher, or of the base and the teacher's adapter.
        frozen_bytes: Of one of those.
    """
    return StateMemory(
        weights=FLOAT_BYTES * trained,
        gradients=FLOAT_BYTES * trained,
        optimizer=round(OPTIMIZER_BYTES[training.optimizer] * trained),
        average=0 if training.ema_decay is None else FLOAT_BYTES * trained,
        frozen=frozen_bytes * frozen,
    )


def activation_bytes(
    config: DenoiserConfig, images: int, *, bfloat16: bool, checkpointing: bool, frozen_bfloat16: bool = False
) -> int:
    """Estimate the most that a forward and a backward pass hold beside the training state.

    Both passes run on tensors without data, which takes seconds and no memory. What the device's own routines work
    with is not counted.

    Args:
        config: Whose network is trained, or whose adapter, where it has one.
        images: In memory at a time.
        bfloat16: Whether the network computes in bfloat16.
        checkpointing: Whether activations are computed again in the backward pass.
        frozen_bfloat16: Whether the base of an adapter is kept in bfloat16.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from progdistill.training.execution import recompute_activations

    with FakeTensorMode():
        denoiser = _trained(config, frozen_bfloat16).train()
        denoiser.autocasts = bfloat16
        if checkpointing:
            recompute_activations(denoiser)
        for parameter in denoiser.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        columns = {
            column.name: torch.zeros(images, *column.shape, dtype=getattr(torch, column.dtype))
            for column in config.network.columns
        }
        with _live_storages() as live:
            z = torch.zeros(images, *config.network.sample_shape)
            denoiser(z, torch.full((images,), 0.5), columns or None).square().mean().backward()
        return int(live.peak_bytes)


def _trained(config: DenoiserConfig, frozen_bfloat16: bool) -> "Denoiser":
    """The denoiser as a training has it: with all its weights, or an adapter on a frozen base."""
    import torch
    from torch import nn

    from progdistill.models.adapters import adapter_shapes, target_layers
    from progdistill.models.denoiser import Denoiser
    from progdistill.models.networks.registry import network_of

    denoiser = Denoiser(config, network_of(config.network).build(config))
    if config.lora is None:
        return denoiser
    shapes = adapter_shapes(denoiser, config.lora.rank, config.lora.targets)
    layers = target_layers(denoiser, config.lora.targets)
    for module in denoiser.network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            kept = parameter.detach().to(torch.bfloat16) if frozen_bfloat16 else parameter.detach()
            setattr(module, name, nn.Parameter(kept, requires_grad=False))
    for name, layer in layers.items():  # peft itself moves modules, which tensors without data do not allow
        for part in ("lora_A", "lora_B"):
            layer.register_parameter(part, nn.Parameter(torch.zeros(shapes[f"network.{name}.{part}.weight"])))
        layer.register_forward_hook(_add_adapter)
    return denoiser


def _add_adapter(layer: Any, inputs: Any, output: Any) -> Any:
    """The output of a layer with B·A·x, computed as peft does."""
    import torch.nn.functional as F

    x = inputs[0].to(layer.lora_A.dtype)
    if layer.lora_A.ndim == 2:
        return output + F.linear(F.linear(x, layer.lora_A), layer.lora_B).to(output.dtype)
    down = F.conv2d(x, layer.lora_A, None, layer.stride, layer.padding, layer.dilation)
    return output + F.conv2d(down, layer.lora_B).to(output.dtype)


def what_fits(
    config: DenoiserConfig, free_bytes: int, *, bfloat16: bool, checkpointing: bool, frozen_bfloat16: bool = False
) -> str:
    """What to set so that a training step fits in `free_bytes`, beside the training state: an estimate as advice."""
    fits = _images_that_fit(config, free_bytes, bfloat16, checkpointing, frozen_bfloat16)
    recomputed = fits if checkpointing else _images_that_fit(config, free_bytes, bfloat16, True, frozen_bfloat16)
    set_size = "set compute.micro_batch_size to that"
    if fits and recomputed > fits:
        return f"{fits} do by an estimate, or {recomputed} with compute.activation_checkpointing=true: {set_size}"
    if fits:
        return f"{fits} do by an estimate: {set_size}"
    if recomputed:
        return f"{recomputed} do by an estimate with compute.activation_checkpointing=true: set that too"
    return (
        "not even one does by an estimate with compute.activation_checkpointing=true: a smaller state leaves more room"
        " (distill.lora.rank, distill.frozen_precision=bfloat16, distill.optimizer=adamw_8bit)"
    )


def fitting_micro_batch(
    config: DenoiserConfig,
    images: int,
    free_bytes: int,
    *,
    bfloat16: bool,
    checkpointing: bool,
    frozen_bfloat16: bool = False,
) -> int | None:
    """Images at a time, a power of two, that fit in 80 % of `free_bytes` by an estimate; None: all `images` do.

    At least one. The rest is for what the device's own routines work with. A power of two, so that a resumed training,
    whose memory differs by a few bytes, finds the same.
    """
    fits = _images_that_fit(config, free_bytes * 4 // 5, bfloat16, checkpointing, frozen_bfloat16)
    return None if fits >= images else 1 << max(fits.bit_length() - 1, 0)


def _images_that_fit(
    config: DenoiserConfig, free_bytes: int, bfloat16: bool, checkpointing: bool, frozen_bfloat16: bool
) -> int:
    one, two = (
        activation_bytes(config, n, bfloat16=bfloat16, checkpointing=checkpointing, frozen_bfloat16=frozen_bfloat16)
        for n in (1, 2)
    )
    return max(0, (free_bytes - (one - (two - one))) // max(1, two - one))


def _live_storages() -> Any:
    """A mode in which the storages that operations make are counted for as long as they live."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.bytes = self.peak_bytes = 0
            self._known: weakref.WeakSet[Any] = weakref.WeakSet()

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            given = {leaf.untyped_storage() for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)}
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor) and (storage := leaf.untyped_storage()) not in given:
                    self._add(storage)
            return result

        def _add(self, storage: Any) -> None:
            if storage in self._known:
                return
            self._known.add(storage)
            self._count(storage.nbytes())
            weakref.finalize(storage, self._count, -storage.nbytes())

        def _count(self, change: int) -> None:
            self.bytes += change
            self.peak_bytes = max(self.peak_bytes, self.bytes)

    return Live()
