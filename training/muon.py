"""Muon for the convolutions, SGD for all else: Jordan et al., 2024, "Muon: An optimizer for hidden layers"."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class MuonWithSGD(torch.optim.Optimizer):
    """
    `torch.optim.Muon` on the kernels of convolutions and `torch.optim.SGD` on other parameters, as one optimiser.

    Muon takes matrices. Each kernel, `[out, in, H, W]`, is given to it as `[out, in · H · W]`, a row an output channel,
    in the kernel's own memory: what Muon writes there is the kernel.

    Args:
        kernels: of convolutions, on the device and in the memory format that they are trained in. They are the first
            of `param_groups`.
        muon: arguments of `torch.optim.Muon`.
        groups: parameter groups of the others, as `torch.optim.SGD` takes them.
        sgd: arguments of `torch.optim.SGD`.
    """

    def __init__(
        self, kernels: Iterable[nn.Parameter], muon: dict[str, Any], groups: list[dict[str, Any]], sgd: dict[str, Any]
    ):
        self._kernels = list(kernels)
        self._matrices = [nn.Parameter(_as_matrix(kernel.detach(), kernel)) for kernel in self._kernels]
        self._muon = torch.optim.Muon(self._matrices, **muon)
        self._sgd = torch.optim.SGD(groups, **sgd)
        # The kernels, not their matrices: fp16's scaler looks here for the gradients to unscale.
        super().__init__([{"params": self._kernels, **muon}], {})
        self.param_groups += self._sgd.param_groups

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """A step of both; `closure` is not supported."""
        self._muon.param_groups[0]["lr"] = self.param_groups[0]["lr"]
        for kernel, matrix in zip(self._kernels, self._matrices, strict=True):
            matrix.grad = None if kernel.grad is None else _as_matrix(kernel.grad, kernel)
        self._muon.step()
        self._sgd.step()
        self._muon.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Those of the two, by name."""
        return {"muon": self._muon.state_dict(), "sgd": self._sgd.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes what `state_dict` gave."""
        self._muon.load_state_dict(state_dict["muon"])
        self._sgd.load_state_dict(state_dict["sgd"])
        self.param_groups[0]["lr"] = self._muon.param_groups[0]["lr"]
        self.param_groups[1:] = self._sgd.param_groups


def _as_matrix(tensor: Tensor, kernel: Tensor) -> Tensor:
    """`[out, in, H, W]` as a row an output channel, its columns in the order of the kernel's memory."""
    order = sorted((1, 2, 3), key=kernel.stride, reverse=True)
    return tensor.permute(0, *order).reshape(len(tensor), -1)
