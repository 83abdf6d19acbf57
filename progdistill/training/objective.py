"""Training objectives: Algorithm 1 (a base model), Algorithm 2 (a student), and guidance."""

from typing import Protocol

from jaxtyping import Float
from torch import Tensor, nn

from progdistill.diffusion.guidance import guidance_target
from progdistill.diffusion.loss import weighted_loss
from progdistill.diffusion.names import LossWeight
from progdistill.diffusion.prediction import velocity_from_x_eps
from progdistill.diffusion.schedule import diffuse
from progdistill.diffusion.target import distillation_target
from progdistill.models.conditioning import Conditioning
from progdistill.models.denoiser import Denoiser, Images, Times
from progdistill.training.guidance import GuidanceRange
from progdistill.training.random import BatchRandom


class Objective(Protocol):
    """The mean loss of a model on a batch; `network` is the model, wrapped for several ranks or not."""

    def __call__(
        self, model: Denoiser, network: nn.Module, x: Images, conditioning: Conditioning | None, random: BatchRandom
    ) -> Float[Tensor, ""]:
        """Compute the loss.

        Args:
            model: The denoiser being trained.
            network: `model`, or its DDP wrapper, to call for the output.
            x: Images in [−1, 1], or latents.
            conditioning: Their columns; None for an unconditional model.
            random: The only source of randomness.
        """


class BaseObjective:
    """Algorithm 1: t ~ U[0, 1], and the clean data is the target.

    With probability `label_dropout` a sample's label is replaced by num_classes, "no class":
    one network learns the conditional and the unconditional model (Ho & Salimans 2021).
    """

    def __init__(self, loss_weight: LossWeight, label_dropout: float = 0.0) -> None:
        self._loss_weight, self._label_dropout = loss_weight, label_dropout

    def __call__(
        self, model: Denoiser, network: nn.Module, x: Images, conditioning: Conditioning | None, random: BatchRandom
    ) -> Float[Tensor, ""]:
        """Compute the loss; see Objective."""
        t = random.uniform()
        eps = random.noise_like(x)
        if conditioning is not None and self._label_dropout:
            dropped = random.uniform() < self._label_dropout
            no_class = model.config.network.num_classes
            conditioning = {**conditioning, "label": conditioning["label"].masked_fill(dropped, no_class)}
        z = diffuse(x, eps, t)
        output = network(z, t, conditioning)
        target = velocity_from_x_eps(x, eps, t)
        return weighted_loss(output, target, z, t, model.config.prediction, self._loss_weight).mean()


class DistillationObjective:
    """Algorithm 2: t = i/N with i uniform on 1 … N; two DDIM steps of the teacher give the target.

    Where teacher and student take guidance as an input, `guidance_scale` is the range that each sample's
    scale is drawn from, the same for both.
    """

    def __init__(
        self,
        teacher: Denoiser,
        student_steps: int,
        loss_weight: LossWeight,
        guidance_scale: GuidanceRange | None = None,
    ) -> None:
        self._teacher = teacher.eval().requires_grad_(False)
        self._steps, self._loss_weight, self._guidance_scale = student_steps, loss_weight, guidance_scale

    def __call__(
        self, model: Denoiser, network: nn.Module, x: Images, conditioning: Conditioning | None, random: BatchRandom
    ) -> Float[Tensor, ""]:
        """Compute the loss; see Objective."""
        t = random.integers(1, self._steps).to(x.dtype) / self._steps
        z = diffuse(x, random.noise_like(x), t)
        w = None if self._guidance_scale is None else draw_w(self._guidance_scale, random)
        target = self._target(z, t, conditioning, w)
        output = network(z, t, conditioning, w)
        return weighted_loss(output, target, z, t, model.config.prediction, self._loss_weight).mean()

    def _target(self, z: Images, t: Times, conditioning: Conditioning | None, w: Times | None) -> Images:
        return distillation_target(self._teacher.bind(conditioning, w), z, t, self._steps)


class GuidanceObjective(DistillationObjective):
    """Stage one of Meng et al. (2023): like Algorithm 2, but the guided teacher's velocity is the target.

    The student is evaluated once where its teacher is evaluated twice. t = i/N are the times at which
    samplers of N steps, and the students of the next stages, evaluate it.
    """

    def _target(self, z: Images, t: Times, conditioning: Conditioning | None, w: Times | None) -> Images:
        if conditioning is None or w is None:
            raise ValueError("guidance needs a condition and a range of guidance scales")
        without = self._teacher.without_condition(conditioning)
        return guidance_target(self._teacher.bind(conditioning), self._teacher.bind(without), z, t, w)


def draw_w(guidance_scale: GuidanceRange, random: BatchRandom) -> Times:
    """w = guidance_scale − 1 of each sample, uniform on the range."""
    return (guidance_scale.lowest - 1) + (guidance_scale.highest - guidance_scale.lowest) * random.uniform()
