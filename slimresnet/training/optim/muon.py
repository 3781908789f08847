"""Muon for the convolutions, SGD for all else: Jordan et al., 2024, "Muon: An optimizer for hidden layers"."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Of the quintic a·x + b·x³ + c·x⁵, which drives every singular value between 0 and 1 to about 1 (Jordan et al., 2024).
_QUINTIC = (3.4445, -4.7750, 2.0315)

# Multiply-adds of padding that cost less than one more batch. A batch is about twenty launches, in whose time a GPU
# does more than 10⁹ multiply-adds, by estimate. A CPU launches nothing.
PADDING_WORTH_A_BATCH = {"cpu": 0, "cuda": 10**9}


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
        # The columns in the order of the kernels' memory, so that little is copied.
        orders = [(0, *sorted((1, 2, 3), key=kernel.stride, reverse=True)) for kernel in kernels]
        matrices = [update.permute(order).flatten(1) for update, order in zip(updates, orders, strict=True)]
        weights = [kernel.permute(order).view(len(kernel), -1) for kernel, order in zip(kernels, orders, strict=True)]
        alike: dict[float, tuple[list[Tensor], list[Tensor]]] = {}  # by the share of the rate that they move at
        for weight, direction in zip(weights, self._directions(matrices), strict=True):
            rows, columns = weight.shape
            moved, moves = alike.setdefault(max(1, rows / columns) ** 0.5, ([], []))
            moved.append(weight)
            moves.append(direction)
        for share, (moved, moves) in alike.items():
            torch._foreach_mul_(moves, -(lr * share))
            torch._foreach_add_(moved, moves)

    def _directions(self, matrices: list[Tensor]) -> list[Tensor]:
        """New, contiguous matrices: those that are given, with their singular values near 1."""
        directions: dict[int, Tensor] = {}
        worth = PADDING_WORTH_A_BATCH.get(matrices[0].device.type, 0)
        for shape, members in batches([(matrix.size(0), matrix.size(1)) for matrix in matrices], self._ns_steps, worth):
            fitted = torch.stack([_fitted(matrices[member], shape) for member in members])
            orthogonal = orthogonalized(fitted, self._ns_steps, self._dtype).to(fitted.dtype)
            for member, direction in zip(members, orthogonal, strict=True):
                rows, columns = matrices[member].shape
                own = direction[:, :columns] if rows == shape[0] else direction[:, :rows].T
                directions[member] = own.contiguous()
        return [directions[member] for member in range(len(matrices))]

    def _average(self, kernel: Tensor) -> Tensor:
        state = self.state[kernel]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(kernel)
        return state["momentum_buffer"]


def batches(shapes: Sequence[tuple[int, int]], steps: int, worth: int) -> list[tuple[tuple[int, int], list[int]]]:
    """
    Which matrices are orthogonalised together: small products take a GPU longer to launch than to do.

    Tall matrices are transposed, and columns of zeros are added, where matrices of several shapes share a batch.

    Args:
        shapes: rows and columns of each matrix.
        steps: iterations of Newton-Schulz.
        worth: multiply-adds of padding, over all steps, that all matrices of one shape may cost together; above that
            they have a batch of their own.

    Returns:
        Of each batch the rows and the columns, and the numbers of its matrices. Each matrix is in one batch.
    """
    alike: dict[tuple[int, int], list[int]] = {}
    for number, shape in enumerate(shapes):
        alike.setdefault((min(shape), max(shape)), []).append(number)
    found: list[tuple[tuple[int, int], list[int]]] = []
    for (rows, columns), members in sorted(alike.items(), reverse=True):
        if found:
            (rows_there, columns_there), others = found[-1]
            padding = columns_there - columns  # each column costs two products of `rows` × `rows` a step
            if rows_there == rows and 2 * steps * len(members) * rows**2 * padding <= worth:
                others.extend(members)
                continue
        found.append(((rows, columns), members))
    return [
        (shapes[members[0]] if len({shapes[member] for member in members}) == 1 else shape, members)
        for shape, members in found
    ]


def _fitted(matrix: Tensor, shape: tuple[int, int]) -> Tensor:
    """The matrix in `shape`: transposed, and padded with columns of zeros, which change no product, as that needs."""
    rows, columns = shape
    wide = matrix if matrix.size(0) == rows else matrix.T
    return wide if wide.size(1) == columns else F.pad(wide, (0, columns - wide.size(1)))


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
