"""The boundary of a network trained elsewhere: its state, its time, and the meaning of its output.

In a schedule with states α·x + σ·ε only the ratio σ/α matters. Our angle φ = π/2·t has tan φ = σ/α, so a foreign
network is a velocity in ours after three steps: scale z to its state, tell it its own time, convert its output.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from progdistill.diffusion.noise_schedules import DiscreteSchedule, EDMSchedule, FlowSchedule, NoiseSchedule
from progdistill.diffusion.prediction import Latents, Outputs
from progdistill.diffusion.schedule import alpha_sigma, coefficients, log_snr, time_of_log_snr
from progdistill.models.config import TIME_SCALE

LOWEST_LOG_SNR = -24 * math.log(2)

Times = Float[Tensor, " batch"]


class Boundary(nn.Module):
    """Converts between our (z, t) and what a network takes and answers, in float32 or float64.

    `DiscreteSchedule`: the network gets z itself and the index with the log-SNR of t: a variance-preserving z_t depends
    on t through its log-SNR alone (section 2 of the paper). Between indices the log-SNR is interpolated linearly;
    outside the foreign range of log-SNR the nearest index is used.
    """

    log_snr_of_level: Tensor

    def __init__(self, schedule: NoiseSchedule | None) -> None:
        super().__init__()
        self.schedule = schedule
        rising = schedule.log_snr()[::-1] if isinstance(schedule, DiscreteSchedule) else []
        # Where the SNR ends at 0, its logarithm is that of ᾱ = 2⁻²⁴, as in diffusers' EulerDiscreteScheduler.
        rising = [max(level, LOWEST_LOG_SNR) for level in rising]
        self.register_buffer("log_snr_of_level", torch.tensor(rising, dtype=torch.float32), persistent=False)

    def time(self, t: Times) -> Times:
        """The network's time input: 8192·t − 1 for our own, an index in [0, steps − 1], time_scale·τ, or ln(s)/4."""
        match self.schedule:
            case None:
                return t.float() * TIME_SCALE - 1
            case FlowSchedule() as flow:
                alpha, sigma = alpha_sigma(t)
                tau = sigma / (alpha + sigma)
                return (flow.time_scale * (1 - tau if flow.reversed else tau)).float()
            case EDMSchedule() as edm:
                lowest, highest = (math.atan(s) for s in (edm.sigma_min, edm.sigma_max))
                return ((t * (math.pi / 2)).clamp(lowest, highest).tan().log() / 4).float()
            case DiscreteSchedule():
                return self._index(t)

    def _index(self, t: Times) -> Times:
        rising = self.log_snr_of_level
        wanted = log_snr(t).float().clamp(rising[0], rising[-1])
        # Counting is searchsorted in operations that ONNX has.
        above = (rising < wanted[:, None]).sum(dim=1).clamp(1, len(rising) - 1)
        low, high = rising[above - 1], rising[above]
        return len(rising) - above - (wanted - low) / (high - low)

    def nearest_known(self, t: Times) -> Times:
        """The time nearest to t whose log-SNR the network was trained on; t itself where there is no such limit."""
        if not isinstance(self.schedule, DiscreteSchedule):
            return t
        last, first = time_of_log_snr(self.log_snr_of_level[[0, -1]])
        return t.clamp(first, last)

    def state(self, z: Latents, t: Times) -> Latents:
        """What the network is asked at: z, scaled.

        Flow: z/(α + σ) = (1 − τ)·x + τ·ε. EDM: c_in·(x + s·ε) = z/√(σ² + σ_data²·α²).
        """
        match self.schedule:
            case FlowSchedule():
                alpha, sigma = coefficients(t, z)
                return z / (alpha + sigma)
            case EDMSchedule() as edm:
                return z / _edm_norm(z, t, edm)
            case _:
                return z

    def output(self, output: Outputs, z: Latents, t: Times) -> Outputs:
        """The output in our terms: v̂ for flow and EDM networks, which `DenoiserConfig.prediction` then calls v.

        Flow: v̂ = (u + (α − σ)·z)/(α + σ). EDM, with r² = σ² + σ_data²·α²: v̂ = α·σ·(1 − σ_data²)/r²·z − σ_data/r·F.
        Neither divides by anything that vanishes.
        """
        match self.schedule:
            case FlowSchedule() as flow:
                alpha, sigma = coefficients(t, z)
                u = -output if flow.reversed else output
                return (u + (alpha - sigma) * z) / (alpha + sigma)
            case EDMSchedule() as edm:
                alpha, sigma = coefficients(t, z)
                r = _edm_norm(z, t, edm)
                return alpha * sigma * (1 - edm.sigma_data**2) / r.square() * z - edm.sigma_data / r * output
            case _:
                return output


def _edm_norm(z: Latents, t: Times, edm: EDMSchedule) -> Tensor:
    alpha, sigma = coefficients(t, z)
    return (sigma.square() + (edm.sigma_data * alpha).square()).sqrt()
