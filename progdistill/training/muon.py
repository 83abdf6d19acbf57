"""Muon (Jordan et al. 2024): updates of matrices whose singular values are all about the same."""

from collections.abc import Set
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from progdistill.training.sharding import flat_slice, full_tensor, is_dtensor, to_local

ITERATIONS, COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)
"""Of the Newton-Schulz iteration, as published: singular values end between about 0.7 and 1.2."""
USUAL_UPDATE = 0.2
"""Root mean square of an update of AdamW, over its learning rate (Liu et al. 2025): one rate serves both."""


class Muon(torch.optim.AdamW):
    """Muon for matrices and convolutions, AdamW for vectors and the tables of embeddings.

    A weight with n outputs and m inputs, of all taps, has a momentum M. With M = U·S·Vᵀ, its singular value
    decomposition, the update is nearly 0.2·√max(n, m)·U·Vᵀ. Of weights that FSDP has sharded, every rank gathers M.
    """

    def __init__(self, groups: list[dict[str, Any]], tables: Set[Tensor], **adamw: Any) -> None:
        """Split every group in two.

        Args:
            groups: Parameters by `params`, with other values of their own.
            tables: The weights of embeddings.
            adamw: Arguments of AdamW; learning rate, weight decay and β₁, the decay of momenta, are for all parameters.
        """
        split = []
        for group in groups:
            for is_matrix in (True, False):
                own = [p for p in group["params"] if (p.ndim > 1 and p not in tables) is is_matrix]
                split += [{**group, "params": own, "is_matrix": is_matrix}] if own else []
        super().__init__(split, **adamw, fused=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient; none where `found_inf` is 1, without a wait for the device."""
        groups = self.param_groups
        is_finite = 1 - getattr(self, "found_inf", torch.zeros((), device=groups[0]["params"][0].device))
        for group in groups:
            for parameter in group["params"] if group["is_matrix"] else ():
                if parameter.grad is not None:
                    self._step_matrix(parameter, group, is_finite)
        self.param_groups = [group for group in groups if not group["is_matrix"]]
        try:
            super().step()
        finally:
            self.param_groups = groups

    def _step_matrix(self, parameter: Any, group: dict[str, Any], is_finite: Float[Tensor, ""]) -> None:
        """Nesterov's momentum, orthogonalized. A gradient's scale does not matter."""
        state, rate, decay = self.state[parameter], group["lr"], group["betas"][0]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        own, gradient, momentum = (to_local(t) for t in (parameter, parameter.grad, state["momentum"]))
        gradient.copy_(torch.where(is_finite > 0, gradient, 0))
        momentum.lerp_(gradient, (1 - decay) * is_finite)
        gradient.lerp_(momentum, decay)
        ahead = full_tensor(parameter.grad)
        size = rate * USUAL_UPDATE * max(len(ahead), ahead[0].numel()) ** 0.5
        update = orthogonalized(ahead.flatten(1)).reshape(ahead.shape)
        if is_dtensor(parameter):
            first = flat_slice(parameter).offset
            update = update.flatten()[first : first + own.numel()].view(own.shape)
        own.mul_(1 - rate * group["weight_decay"] * is_finite)
        own.sub_(update * (size * is_finite))


def orthogonalized(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Nearly U·Vᵀ of a matrix U·S·Vᵀ, by products alone; zero of zero.

    On accelerators in bfloat16, as published; on CPUs, where that is slow, in float32.
    """
    a, b, c = COEFFICIENTS
    wide = matrix.T if len(matrix) > matrix.shape[1] else matrix
    x = wide if matrix.device.type == "cpu" else wide.bfloat16()
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if wide is not matrix else x
