"""A network whose layers train with the fused BatchNorm."""

from torch import Tensor, nn

from modeling_slimresnet.modeling_slimresnet import SlimResNetBasicLayer, SlimResNetConvLayer
from slimresnet.training.fused.batch_norm import batch_norm


class _FusedConvLayer(SlimResNetConvLayer):
    def forward(self, hidden_state: Tensor, residual: Tensor | None = None) -> Tensor:
        """As `SlimResNetConvLayer`. Where BatchNorm trains, `residual` may be added, and a ReLU then follows."""
        if not self.normalization.training:
            return super().forward(hidden_state)
        relu = residual is not None or not isinstance(self.activation, nn.Identity)
        return batch_norm(self.convolution(hidden_state), self.normalization, residual=residual, relu=relu)


class _FusedBasicLayer(SlimResNetBasicLayer):
    def forward(self, hidden_state: Tensor) -> Tensor:
        first, last = self.layer
        if not last.get_submodule("normalization").training:  # in evaluation, or frozen
            return super().forward(hidden_state)
        return last(first(hidden_state), self.shortcut(hidden_state))


def fuse_layers(model: nn.Module) -> None:
    """
    Has the layers of `model` do BatchNorm and what follows it in one pass each way, in training, on a GPU.

    Parameters, buffers, their names and evaluation stay what they are. The activation of the network is ReLU.
    """
    for module in model.modules():
        if type(module) is SlimResNetConvLayer:
            module.__class__ = _FusedConvLayer
        elif type(module) is SlimResNetBasicLayer:
            module.__class__ = _FusedBasicLayer
