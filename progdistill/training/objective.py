"""The two objectives: Algorithm 1 (the base model) and Algorithm 2 (a student)."""

from typing import Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from progdistill.diffusion.loss import weighted_loss
from progdistill.diffusion.names import LossWeight
from progdistill.diffusion.prediction import velocity_from_x_eps
from progdistill.diffusion.schedule import diffuse
from progdistill.diffusion.target import distillation_target
from progdistill.models.denoiser import Denoiser

Images = Float[Tensor, "batch channels height width"]
Labels = Int64[Tensor, " batch"]


class Objective(Protocol):
    """The mean loss of a model on a batch; `network` is the model, wrapped for several ranks or not."""

    def __call__(
        self, model: Denoiser, network: nn.Module, x: Images, labels: Labels | None, random: torch.Generator
    ) -> Float[Tensor, ""]:
        """Draw times and noise from `random` alone."""


class BaseObjective:
    """Algorithm 1: t ~ U[0, 1], and the clean data is the target."""

    def __init__(self, weight: LossWeight) -> None:
        self._weight = weight

    def __call__(
        self, model: Denoiser, network: nn.Module, x: Images, labels: Labels | None, random: torch.Generator
    ) -> Float[Tensor, ""]:
        """See Objective."""
        t = torch.rand(len(x), generator=random, device=x.device)
        eps = _noise_like(x, random)
        z = diffuse(x, eps, t)
        output = network(z, t, labels)
        target = velocity_from_x_eps(x, eps, t)
        return weighted_loss(output, target, z, t, model.config.prediction, self._weight).mean()


class DistillationObjective:
    """Algorithm 2: t = i/N with i uniform on 1 … N, and two DDIM steps of the teacher give the target."""

    def __init__(self, teacher: Denoiser, student_steps: int, weight: LossWeight) -> None:
        self._teacher, self._steps, self._weight = teacher.eval().requires_grad_(False), student_steps, weight

    def __call__(
        self, model: Denoiser, network: nn.Module, x: Images, labels: Labels | None, random: torch.Generator
    ) -> Float[Tensor, ""]:
        """See Objective."""
        i = torch.randint(1, self._steps + 1, (len(x),), generator=random, device=x.device)
        t = i.to(x.dtype) / self._steps
        z = diffuse(x, _noise_like(x, random), t)
        target = distillation_target(self._teacher.bind(labels), z, t, self._steps)
        output = network(z, t, labels)
        return weighted_loss(output, target, z, t, model.config.prediction, self._weight).mean()


def _noise_like(x: Images, random: torch.Generator) -> Images:
    return torch.randn(x.shape, generator=random, device=x.device)
