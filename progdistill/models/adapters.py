"""LoRA (Hu et al. 2021): adapters of low rank on the frozen weights of a base network.

While a student trains, it and its teacher are two of peft's adapters on one base in memory. A checkpoint holds the
adapter alone; everywhere else it is merged into its base's weights, and the network is like any other.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from progdistill.diffusion.noise import generator
from progdistill.errors import LostInvariantError, UsageError
from progdistill.models.config import DenoiserConfig, LoraConfig
from progdistill.models.denoiser import Denoiser, unallocated

TEACHER, STUDENT = "teacher", "student"
"""Names of the two adapters on one base."""


def target_layers(denoiser: Denoiser, targets: tuple[str, ...]) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers that an adapter changes, by name within the network: no grouped convolutions, which are small.

    Args:
        denoiser: Whose network has no adapters yet; on any device, `meta` included.
        targets: Names, or their last parts; empty: all linear layers and convolutions of the network's blocks.

    Raises:
        UsageError: A target is the name of no linear layer or convolution.
    """
    network = denoiser.network
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    }
    if not targets:
        inside = {id(module) for block in denoiser.ask.blocks(network) for module in block.modules()}
        return {name: layer for name, layer in layers.items() if id(layer) in inside}
    for target in targets:
        if not any(_is_named(name, target) for name in layers):
            known = sorted({name.rpartition(".")[2] for name in layers} - set("0123456789"))
            raise UsageError(
                f"distill.lora.targets: the network has no linear layer or convolution {target!r};"
                f" last parts of names are {', '.join(known)}"
            )
    return {name: layer for name, layer in layers.items() if any(_is_named(name, target) for target in targets)}


def _is_named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def adapter_shapes(denoiser: Denoiser, rank: int, targets: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that a checkpoint of such an adapter holds; see `target_layers`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in target_layers(denoiser, targets).items():
        outputs, *inputs = layer.weight.shape
        ones = [1] * (len(inputs) - 1)
        shapes[f"network.{name}.lora_A.weight"] = (rank, *inputs)
        shapes[f"network.{name}.lora_B.weight"] = (outputs, rank, *ones)
    return shapes


def adapter_parameters(config: DenoiserConfig, rank: int, targets: tuple[str, ...]) -> int:
    """The number of parameters of an adapter of that network."""
    shapes = adapter_shapes(unallocated(config), rank, targets).values()
    return sum(torch.Size(shape).numel() for shape in shapes)


def check_adapter(weights: Mapping[str, Tensor], base: Denoiser, lora: LoraConfig) -> None:
    """Raise LostInvariantError unless the tensors are those of such an adapter on that base."""
    wanted = adapter_shapes(base, lora.rank, lora.targets)
    if found := sorted(weights.keys() ^ wanted.keys()):
        raise LostInvariantError(f"an adapter of {len(wanted)} tensors differs in {len(found)}, such as {found[0]}")
    for name, shape in wanted.items():
        if tuple(weights[name].shape) != shape:
            raise LostInvariantError(f"{name} of the adapter has shape {tuple(weights[name].shape)}, not {shape}")


def merged(base: Denoiser, config: DenoiserConfig, weights: Mapping[str, Tensor]) -> Denoiser:
    """The denoiser whose adapter on `base` has these weights, as a network without adapters.

    Args:
        base: Changed: its network becomes that of the result.
        config: Of the result; `config.lora` describes the adapter.
        weights: As the checkpoint holds them.
    """
    lora = config.lora
    if lora is None:
        raise ValueError("the configuration is not that of an adapter")
    check_adapter(weights, base, lora)
    with torch.no_grad():
        for name, layer in target_layers(base, lora.targets).items():
            down, up = (weights[f"network.{name}.{part}.weight"].to(layer.weight) for part in ("lora_A", "lora_B"))
            change = (up.flatten(1) @ down.flatten(1)).view(layer.weight.shape)
            layer.weight.add_(change, alpha=lora.alpha / lora.rank)
    return Denoiser(config, base.network)


def share_base(
    base: Denoiser, teacher: DenoiserConfig, student: DenoiserConfig, weights: Mapping[str, Tensor] | None, seed: int
) -> tuple[Denoiser, Denoiser]:
    """Teacher and student as adapters on one base. The student's network is trained, the teacher's is not.

    The network rests with the student's adapter active; the teacher switches to its own for each evaluation.

    Args:
        base: On the CPU; changed: its network gets the adapters, in float32 whatever its own precision.
        teacher: Its configuration; without an adapter it is the base itself.
        student: Its configuration, with an adapter.
        weights: The teacher's adapter, which the student's starts as a copy of. None: the student's starts without
            effect, B = 0, with random A.
        seed: Of the random A.
    """
    lora = student.lora
    if lora is None:
        raise ValueError("the student has no adapter")
    network, layers = base.network.requires_grad_(False), target_layers(base, lora.targets)
    if weights is None:
        _inject(network, lora, STUDENT, list(layers), _initial(adapter_shapes(base, lora.rank, lora.targets), seed))
    else:
        check_adapter(weights, base, lora)
        _inject(network, lora, TEACHER, list(layers), weights)
        _inject(network, lora, STUDENT, list(layers), weights)
    switched = [network.get_submodule(name) for name in layers]
    _activate(switched, STUDENT)
    learner = Denoiser(student, network)
    learner.adapter = STUDENT
    leader = Denoiser(teacher, network)
    leader.while_asked = partial(_switched, switched, None if weights is None else TEACHER)
    return leader, learner


def _initial(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """A uniform in ±1/√fan_in, as peft has it, and B zero."""
    source = generator(seed, "initial adapter")
    weights: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        weights[name] = torch.zeros(shape)
        if name.endswith(".lora_A.weight"):
            bound = weights[name][0].numel() ** -0.5
            nn.init.uniform_(weights[name], -bound, bound, generator=source)
    return weights


def _inject(
    network: nn.Module, lora: LoraConfig, adapter: str, names: list[str], weights: Mapping[str, Tensor]
) -> None:
    try:
        import peft
    except ModuleNotFoundError as error:
        raise UsageError("LoRA students need peft: pip install 'progdistill[diffusers]'") from error
    config = peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=names)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # The second of two adapters is no mistake.
        peft.inject_adapter_in_model(config, network, adapter)
    for name in names:
        layer: Any = network.get_submodule(name)
        for part in ("lora_A", "lora_B"):
            getattr(layer, part)[adapter].weight.data = weights[f"network.{name}.{part}.weight"].float().clone()


def _activate(layers: list[Any], adapter: str | None) -> None:
    """Gradients reach the student's adapter alone, and only while it is active."""
    for layer in layers:
        if layer.disable_adapters != (adapter is None):
            layer.enable_adapters(adapter is not None)
        if adapter is not None:
            layer.set_adapter(adapter, inference_mode=adapter != STUDENT)


@contextmanager
def _switched(layers: list[Any], adapter: str | None) -> Iterator[None]:
    """Another adapter, or the base alone, in place of the student's."""
    _activate(layers, adapter)
    try:
        yield
    finally:
        _activate(layers, STUDENT)
