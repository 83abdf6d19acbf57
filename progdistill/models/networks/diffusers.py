"""What networks of diffusers have in common behind the interface of `base.py`."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from progdistill.errors import UsageError
from progdistill.models.conditioning import Conditioning
from progdistill.models.config import Column, DenoiserConfig, DiffusersConfig


def diffusers_class(name: str) -> Any:
    """A class of diffusers; UsageError without diffusers, or where its release has no such class."""
    try:
        found = getattr(import_module("diffusers"), name, None)
    except ModuleNotFoundError as error:
        raise UsageError(f"a {name} needs diffusers: pip install 'progdistill[diffusers]'") from error
    if found is None:
        raise UsageError(f"the installed diffusers has no {name}: upgrade it")
    return found


class DiffusersNetwork(ABC):
    """A network of diffusers, given by its configuration; a file of this folder says what is particular to a class."""

    class_name: ClassVar[str]
    block_classes: ClassVar[tuple[str, ...]]
    """Names of the classes with nearly all parameters and activations."""
    last_layer: ClassVar[str]
    noise: ClassVar[tuple[Literal["betas", "flow"], ...]]
    """Families of schedulers that such networks are trained with."""
    guidance_parameter: ClassVar[str | None] = None

    def __init__(self, config: DiffusersConfig) -> None:
        self.config = config

    @classmethod
    def describe(cls, facts: Mapping[str, Any], sample_size: int | None, max_prompt_tokens: int) -> DiffusersConfig:
        """The configuration of a network.

        Args:
            facts: The contents of its config.json.
            sample_size: Height and width of a noisy sample; None: those in `facts`.
            max_prompt_tokens: Tokens of a prompt that its pipeline passes.

        Raises:
            UsageError: It has inputs or outputs that are not supported.
        """
        accepted = inspect.signature(diffusers_class(cls.class_name).__init__).parameters
        arguments = {name: value for name, value in facts.items() if name in accepted}
        if facts.get("quantization_config"):
            raise UsageError(f"this {cls.class_name} is quantized: import the one in full or half precision")
        _require_sizes(cls.class_name, arguments)
        try:
            with torch.device("meta"):
                module = diffusers_class(cls.class_name)(**arguments)
        except Exception as error:  # its constructors check little, and raise almost anything
            raise UsageError(f"diffusers cannot make this {cls.class_name}: {error or type(error).__name__}") from error
        resolved = dict(module.config)
        known = cls.facts(resolved, max_prompt_tokens)
        size = sample_size or known.pop("sample_size")
        shape = (known.pop("channels"), size, size)
        parameters = sum(parameter.numel() for parameter in module.parameters())
        known.pop("sample_size", None)
        return DiffusersConfig(
            class_name=cls.class_name, arguments=arguments, sample_shape=shape, parameters=parameters, **known
        )

    @classmethod
    @abstractmethod
    def facts(cls, arguments: Mapping[str, Any], max_prompt_tokens: int) -> dict[str, Any]:
        """`channels`, `sample_size` and fields of DiffusersConfig, from all arguments; UsageError if unsupported."""

    @property
    def flow_time_factor(self) -> float:
        """The time input of a flow network is this times the time of its scheduler, 1000·τ."""
        return 1.0

    @property
    def tokens(self) -> int:
        """The length of a sample as a sequence, on which a scheduler's shift may depend."""
        return (self.config.image_size // int(self.config.arguments.get("patch_size", 2))) ** 2  # type: ignore[arg-type]

    def build(self, config: DenoiserConfig) -> nn.Module:
        """See Network."""
        if config.prediction.output_multiplier > 1:
            raise UsageError(f"a {self.class_name} predicts x, v or ε, not (x, ε): choose prediction=v")
        module: nn.Module = diffusers_class(self.class_name)(**self.arguments())
        return module

    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return dict(self.config.arguments)

    def initialize(self, module: nn.Module, generator: torch.Generator) -> None:
        """See Network. The values are those of diffusers' own initialization."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            module.load_state_dict(diffusers_class(self.class_name)(**self.arguments()).state_dict())
        if self.guidance_parameter is not None and self.config.guidance_input:
            nn.init.zeros_(module.get_parameter(self.guidance_parameter))

    def __call__(
        self, module: nn.Module, z: Tensor, time: Tensor, conditioning: Conditioning | None, w: Tensor | None
    ) -> Tensor:
        """See Network."""
        columns = {
            name: column.to(z.dtype) if column.is_floating_point() else column
            for name, column in (conditioning or {}).items()
        }
        return self.answer(module, z, time, columns, w)

    @abstractmethod
    def answer(self, module: nn.Module, z: Tensor, time: Tensor, columns: Conditioning, w: Tensor | None) -> Tensor:
        """`__call__`, with columns of numbers in the dtype of z."""

    def blocks(self, module: nn.Module) -> list[nn.Module]:
        """See Network."""
        return [block for block in module.modules() if type(block).__name__ in self.block_classes]

    def last_layers(self, module: nn.Module) -> tuple[str, ...]:
        """See Network."""
        return (f"{self.last_layer}.weight", f"{self.last_layer}.bias")


def _require_sizes(class_name: str, arguments: Mapping[str, Any]) -> None:
    """Raise UsageError for sizes with which even a network without weights takes for ever to make."""
    for name, value in arguments.items():
        largest = 1000 if "layers" in name or "blocks" in name else 1024 if name == "sample_size" else 2**20
        found = [value]
        for item in found:  # lists in lists
            if isinstance(item, list):
                found += item
        if odd := [item for item in found if isinstance(item, int | float) and item > largest]:
            raise UsageError(f"this {class_name} has {name} = {odd[0]}, more than {largest}")


def require(holds: bool, class_name: str, what: str) -> None:
    """Raise UsageError, "this <class> <what>", unless it holds."""
    if not holds:
        raise UsageError(f"this {class_name} {what}")


def fill_positions(module: nn.Module) -> None:
    """Compute the position embeddings that are no part of the state dict, on the CPU, on the meta device too."""
    from diffusers.models.embeddings import PatchEmbed, get_2d_sincos_pos_embed

    for layer in module.modules():
        if isinstance(layer, PatchEmbed) and layer.pos_embed is not None and layer.pos_embed_max_size is None:
            with torch.device("cpu"):
                layer.pos_embed = get_2d_sincos_pos_embed(
                    layer.pos_embed.shape[-1],
                    int((layer.height * layer.width) ** 0.5),
                    base_size=layer.base_size,
                    interpolation_scale=layer.interpolation_scale,
                    output_type="pt",
                ).float()[None]


def prompt_column(tokens: int, width: int) -> Column:
    """The column of a text encoder's hidden states."""
    return Column(name="prompt_embeds", shape=(tokens, width))
