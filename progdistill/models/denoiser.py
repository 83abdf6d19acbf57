"""The denoiser: a network, what its output means and how it reads the time; making, loading, saving it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from progdistill.diffusion.names import PredictionType
from progdistill.diffusion.noise import generator
from progdistill.diffusion.prediction import Velocity, velocity_from_output
from progdistill.errors import LostInvariantError, UsageError
from progdistill.models.boundary import Boundary
from progdistill.models.conditioning import Conditioning, joined
from progdistill.models.config import DenoiserConfig
from progdistill.models.networks.registry import network_of

Images = Float[Tensor, "batch channels height width"]
Times = Float[Tensor, " batch"]


class Denoiser(nn.Module):
    """A network with its prediction type and time input: predicts at z_t = α_t·x + σ_t·ε, t ∈ [0, 1].

    To run in half precision, cast `denoiser.network`, or set `denoiser.autocasts` to compute in bfloat16 with
    float32 parameters. Times and outputs are float32 either way.
    """

    def __init__(self, config: DenoiserConfig, network: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.ask = network_of(config.network)
        self.boundary = Boundary(config.foreign_schedule)
        self.autocasts = False
        # Where two denoisers are adapters on one network (models/adapters.py):
        self.adapter: str | None = None
        self.while_asked: Callable[[], AbstractContextManager[None]] = nullcontext

    def forward(
        self, z: Images, t: Times, conditioning: Conditioning | None = None, w: Times | None = None
    ) -> Float[Tensor, "batch outputs height width"]:
        """Return what `config.prediction` means.

        Args:
            z: Noisy images or latents.
            t: Times in [0, 1].
            conditioning: The columns of `config.network.columns`; None for an unconditional network.
            w: guidance_scale − 1 of each sample, for networks with a guidance input.

        Returns:
            float32; for (x, ε) models twice the channels of z: x̂, then ε̂.
        """
        time, dtype = self.boundary.time(t), next(self.network.parameters()).dtype
        autocast = torch.autocast(z.device.type, torch.bfloat16) if self.autocasts else nullcontext()
        with autocast, self.while_asked():
            state = self.boundary.state(z, t).to(dtype)
            output = self.ask(self.network, state, time, conditioning, w)
        return self.boundary.output(output.float(), z, t)

    def train(self, mode: bool = True) -> "Denoiser":
        """As of every module, but a network that a student shares with its teacher stays in evaluation mode."""
        super().train(mode and self.adapter is None)
        return self

    def own_name(self, name: str) -> str:
        """The name in a checkpoint of a tensor that `named_parameters` or `state_dict` names."""
        return name if self.adapter is None else name.replace(f".{self.adapter}.", ".")

    def own_weights(self) -> dict[str, Tensor]:
        """What a checkpoint holds, by name: all weights, or those of the adapter; not copies."""
        found = self.state_dict()
        if self.adapter is not None:
            found = {name: tensor for name, tensor in found.items() if f".{self.adapter}." in name}
        return {self.own_name(name): tensor for name, tensor in found.items()}

    def velocity(self, z: Images, t: Times, conditioning: Conditioning | None = None, w: Times | None = None) -> Images:
        """Return v̂ = α·ε̂ − σ·x̂ (App. D) in the dtype of t; arguments as in `forward`.

        Below the α that a foreign ε-network was trained on, v̂ is that of the nearest time it knows.
        """
        output = self(z, t, conditioning, w)
        if self.config.prediction is PredictionType.EPS:
            t = self.boundary.nearest_known(t)
        return velocity_from_output(output, z, t, self.config.prediction)

    def bind(
        self,
        conditioning: Conditioning | None = None,
        w: float | Times | None = None,
        unconditional: Conditioning | None = None,
    ) -> Velocity:
        """Return the velocity as a function of (z, t), which samplers take.

        A network with a guidance input gets w. Another is evaluated twice a step:
        v̂ = (1 + w)·v̂(conditioning) − w·v̂(unconditional) (Ho & Salimans 2021).

        Args:
            conditioning: One row per sample; None for an unconditional model.
            w: guidance_scale − 1, one number or one per sample, at least 0; None: no guidance.
            unconditional: What "no condition" is, one row, or one per sample; None: the label "no class".

        Raises:
            UsageError: A column is missing, or the model cannot be guided.
        """
        network = self.config.network
        missing = [column.name for column in network.columns if column.name not in (conditioning or {})]
        if missing == ["label"]:
            raise UsageError(f"this model has {network.num_classes} classes: give labels")
        if missing:
            raise UsageError(f"this model is conditioned on {', '.join(missing)}, which is missing: give prompts")
        if w is None:
            return lambda z, t: self.velocity(z, t, conditioning)
        if network.guidance_input:
            return lambda z, t: self.velocity(z, t, conditioning, _per_sample(w, t))
        if conditioning is None or (unconditional is None and not network.label_dropout):
            raise UsageError(
                "this model cannot be guided: it was trained with neither label dropout nor a guidance input;"
                " sample it without guidance, or train the base model with label dropout"
            )
        both = joined(conditioning, self.without_condition(conditioning, unconditional))
        return lambda z, t: self._guided_velocity(z, t, both, _per_sample(w, t))

    def without_condition(self, conditioning: Conditioning, unconditional: Conditioning | None = None) -> Conditioning:
        """The rows that stand for "no condition": `unconditional`, repeated as needed, or the label "no class"."""
        if unconditional is None:
            return {"label": torch.full_like(conditioning["label"], self.config.network.num_classes)}
        return {name: unconditional[name].to(column.device).expand_as(column) for name, column in conditioning.items()}

    def _guided_velocity(self, z: Images, t: Times, both: Conditioning, w: Times) -> Images:
        """Conditional and unconditional v̂ from one batch; guiding v̂ guides x̂ and ε̂ too."""
        conditional, unconditional = self.velocity(torch.cat((z, z)), torch.cat((t, t)), both).chunk(2)
        return conditional + w[:, None, None, None] * (conditional - unconditional)


def _per_sample(w: float | Times, t: Times) -> Times:
    if isinstance(w, Tensor):
        return w.to(device=t.device, dtype=torch.float32)
    return torch.full_like(t, w, dtype=torch.float32)


def unallocated(config: DenoiserConfig) -> Denoiser:
    """A denoiser whose weights are on the meta device, for `load_state_dict(…, assign=True)`."""
    with torch.device("meta"):
        network = network_of(config.network).build(config)
    return Denoiser(config, network)


def empty_denoiser(config: DenoiserConfig) -> Denoiser:
    """A denoiser on the CPU with uninitialized weights; buffers that are no part of them are as they should be."""
    denoiser = unallocated(config)
    wanted = denoiser.network.state_dict()
    empty = {name: torch.empty_like(tensor, device="cpu") for name, tensor in wanted.items()}
    denoiser.network.load_state_dict(empty, assign=True)
    return denoiser


def build_denoiser(config: DenoiserConfig, seed: int) -> Denoiser:
    """A denoiser on the CPU with random initial weights, a function of the seed alone."""
    denoiser = empty_denoiser(config)
    denoiser.ask.initialize(denoiser.network, generator(seed, "initial weights"))
    return denoiser


def guidance_parameter(config: DenoiserConfig) -> str:
    """Name of the only parameter that a guided student has beyond its teacher's; empty where there is none."""
    name = network_of(config.network).guidance_parameter
    return "" if name is None else f"network.{name}"


def student_of(teacher: Denoiser, config: DenoiserConfig) -> Denoiser:
    """A denoiser on the CPU that starts as a copy of its teacher.

    A guidance input that the teacher lacks starts at zero, and so does the last convolution if only one of
    the two predicts (x, ε). Otherwise it is copied: an ε-teacher's v-student learns faster so.

    Args:
        teacher: The denoiser to copy.
        config: Of the student; the network may differ from the teacher's in the guidance input and dropout.

    Raises:
        LostInvariantError: The networks differ in more than that.
    """
    student = empty_denoiser(config)
    weights = weights_of(teacher)
    zeroed = {guidance_parameter(config)} - weights.keys()
    if config.out_channels != teacher.config.out_channels:
        zeroed |= {f"network.{name}" for name in student.ask.last_layers(student.network)}
    wanted = student.state_dict()
    weights |= {name: torch.zeros_like(wanted[name]) for name in zeroed & wanted.keys()}
    if problem := mismatch(weights, wanted):
        raise LostInvariantError(f"the student's network is not its teacher's: {problem}")
    student.load_state_dict(weights)
    return student


def weights_of(denoiser: Denoiser) -> dict[str, Tensor]:
    """A copy of the state dict, on the CPU and contiguous."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in denoiser.state_dict().items()}


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file without metadata: equal weights give equal bytes."""
    save_file(dict(sorted(weights.items())), path)


def mismatch(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """How two state dicts differ in names or shapes; empty if they do not."""
    missing, unexpected = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or unexpected:
        return (
            f"{len(missing)} weights missing ({', '.join(missing[:3])}),"
            f" {len(unexpected)} unexpected ({', '.join(unexpected[:3])})"
        )
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            return f"{name} has shape {tuple(tensor.shape)} instead of {tuple(wanted[name].shape)}"
    return ""
