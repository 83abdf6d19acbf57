"""How a network reads the time: as 8192·t − 1, or as the index of another, discrete schedule."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from progdistill.diffusion.schedule import log_snr, time_of_log_snr
from progdistill.models.config import TIME_SCALE, CosineTime, ForeignTime

Times = Float[Tensor, " batch"]


class TimeReader(nn.Module):
    """Turns t ∈ [0, 1] into what the network reads, in float32.

    A foreign network is asked at the index whose log-SNR is that of t: a variance-preserving z_t depends on t
    through its log-SNR alone (section 2 of the paper). Between indices the log-SNR is interpolated linearly;
    outside the foreign range of log-SNR the nearest index is asked.
    """

    log_snr_of_level: Tensor

    def __init__(self, time_input: CosineTime | ForeignTime) -> None:
        super().__init__()
        self.foreign = isinstance(time_input, ForeignTime)
        rising = time_input.schedule.log_snr()[::-1] if isinstance(time_input, ForeignTime) else []
        self.register_buffer("log_snr_of_level", torch.tensor(rising, dtype=torch.float32), persistent=False)

    def forward(self, t: Times) -> Times:
        """8192·t − 1, or a fractional index in [0, steps − 1]."""
        if not self.foreign:
            return t.float() * TIME_SCALE - 1
        rising = self.log_snr_of_level
        wanted = log_snr(t).float().clamp(rising[0], rising[-1])
        # Counting is searchsorted written with operations that ONNX has.
        above = (rising < wanted[:, None]).sum(dim=1).clamp(1, len(rising) - 1)
        low, high = rising[above - 1], rising[above]
        return len(rising) - above - (wanted - low) / (high - low)

    def nearest_known(self, t: Times) -> Times:
        """The time nearest to t whose log-SNR the network was trained on: t itself for our own networks."""
        if not self.foreign:
            return t
        last, first = time_of_log_snr(self.log_snr_of_level[[0, -1]])
        return t.clamp(first, last)
