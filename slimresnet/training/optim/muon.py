"""Muon for the convolutions, SGD for all else: Jordan et al., 2024, "Muon: An optimizer for hidden layers"."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Of the quintic a·x + b·x³ + c·x⁵, which drives every singular value between 0 and 1 to about 1 (Jordan et al., 2024).
_QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """
    `torch.optim.Muon` for the kernels of convolutions, in the precision that the device is fast in.

    torch's takes matrices alone, and iterates in bf16 on processors that have to emulate it too: with the default
    network a step of the optimiser took 6.5 s there, and takes 0.14 s in float32. In bf16 both do the same.

    Args:
        kernels: `[out, in, H, W]`, each a matrix `[out, in · H · W]` to Muon.
        ns_steps: iterations of Newton-Schulz.
        dtype: what they are done in.
    """

    def __init__(
        self,
        kernels: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float,
        nesterov: bool,
        weight_decay: float,
        ns_steps: int,
        dtype: torch.dtype,
    ):
        super().__init__(kernels, {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay})
        self._ns_steps, self._dtype = ns_steps, dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """A step; `closure` is not supported."""
        for group in self.param_groups:
            self._step([kernel for kernel in group["params"] if kernel.grad is not None], **group)

    def _step(
        self, kernels: list[Tensor], lr: float | Tensor, momentum: float, nesterov: bool, weight_decay: float, **_
    ) -> None:
        if not kernels:
            return
        gradients = [kernel.grad for kernel in kernels if kernel.grad is not None]
        averages = [self._average(kernel) for kernel in kernels]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        updates = torch._foreach_lerp(gradients, averages, momentum) if nesterov else averages
        torch._foreach_mul_(kernels, 1 - lr * weight_decay)
        # Kernels of one shape are orthogonalised in one batch: small products take a GPU longer to launch than to do.
        alike: dict[tuple, list[tuple[Tensor, Tensor]]] = {}
        for kernel, update in zip(kernels, updates, strict=True):
            alike.setdefault((kernel.shape, kernel.stride()), []).append((kernel, update))
        for pairs in alike.values():
            # The columns in the order of the kernels' memory, so that little is copied.
            order = (0, *sorted((1, 2, 3), key=pairs[0][0].stride, reverse=True))
            ordered = torch.stack([update.permute(order) for _, update in pairs])
            matrices = ordered.flatten(2)
            rows, columns = matrices.shape[1:]
            directions = orthogonalized(matrices, self._ns_steps, self._dtype).to(ordered.dtype).view_as(ordered)
            rate = lr * max(1, rows / columns) ** 0.5
            torch._foreach_add_([kernel.permute(order) for kernel, _ in pairs], (directions * -rate).unbind())

    def _average(self, kernel: Tensor) -> Tensor:
        state = self.state[kernel]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(kernel)
        return state["momentum_buffer"]


def orthogonalized(matrices: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """Matrices `[N, rows, columns]` with their singular values near 1, by `steps` of Newton-Schulz in `dtype`."""
    a, b, c = _QUINTIC
    are_tall = matrices.size(1) > matrices.size(2)
    x = matrices.to(dtype)
    x = x.mT if are_tall else x  # the products below are then of the smaller side
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if are_tall else x


class MuonWithSGD(torch.optim.Optimizer):
    """
    Two optimisers as one.

    Args:
        muon: for the kernels of convolutions; its groups are the first of `param_groups`.
        sgd: for all other parameters.
    """

    def __init__(self, muon: Muon, sgd: torch.optim.SGD):
        self._parts = {"muon": muon, "sgd": sgd}
        super().__init__([*muon.param_groups, *sgd.param_groups], {})  # the same dicts: a rate set here is set there

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """A step of both; `closure` is not supported."""
        for part in self._parts.values():
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Those of the two, by name."""
        return {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        for name, part in self._parts.items():
            part.load_state_dict(state_dict[name])
        self.param_groups = [group for part in self._parts.values() for group in part.param_groups]
