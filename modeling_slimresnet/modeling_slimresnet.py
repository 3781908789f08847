"""PyTorch SlimResNet: stem → stages of basic blocks → pooler → head."""

import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import (
    BackboneOutput,
    BaseModelOutputWithPoolingAndNoAttention,
    ImageClassifierOutputWithNoAttention,
)
from transformers.utils.generic import can_return_tuple

from .configuration_slimresnet import SlimResNetConfig


class SlimResNetConvLayer(nn.Module):
    """Convolution without bias, BatchNorm, activation (none if `activation` is None)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, activation: str | None):
        super().__init__()
        self.convolution = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=False
        )
        self.normalization = nn.BatchNorm2d(out_channels)
        self.activation = nn.Identity() if activation is None else ACT2FN[activation]

    def forward(self, hidden_state: Tensor) -> Tensor:
        return self.activation(self.normalization(self.convolution(hidden_state)))


class SlimResNetBasicLayer(nn.Module):
    """Basic block of He et al. (2016), figure 2: two 3×3 convolutions around a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, activation: str):
        super().__init__()
        self.layer = nn.Sequential(
            SlimResNetConvLayer(in_channels, out_channels, 3, stride, activation),
            SlimResNetConvLayer(out_channels, out_channels, 3, 1, None),
        )
        self.layer[1].normalization.ends_residual = True  # for `zero_init_residual`
        keeps_shape = stride == 1 and in_channels == out_channels
        self.shortcut = (
            nn.Identity() if keeps_shape else SlimResNetConvLayer(in_channels, out_channels, 1, stride, None)
        )
        self.activation = ACT2FN[activation]

    def forward(self, hidden_state: Tensor) -> Tensor:
        return self.activation(self.layer(hidden_state) + self.shortcut(hidden_state))


class SlimResNetEncoder(nn.Module):
    """The stages; the first block of each changes channels and resolution."""

    def __init__(self, config: SlimResNetConfig):
        super().__init__()
        self.stages = nn.ModuleList()
        in_channels = config.embedding_size
        for out_channels, depth, stride in zip(config.hidden_sizes, config.depths, config.strides, strict=True):
            blocks = [SlimResNetBasicLayer(in_channels, out_channels, stride, config.hidden_act)]
            blocks += [SlimResNetBasicLayer(out_channels, out_channels, 1, config.hidden_act) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*blocks))
            in_channels = out_channels

    def forward(self, hidden_state: Tensor) -> tuple[Tensor, ...]:
        """Returns the input and the output of every stage, `1 + len(depths)` tensors `[B, C, H, W]`."""
        hidden_states = (hidden_state,)
        for stage in self.stages:
            hidden_states += (stage(hidden_states[-1]),)
        return hidden_states


class SlimResNetPreTrainedModel(PreTrainedModel):
    """Weight initialisation, and loading and saving by transformers."""

    config_class = SlimResNetConfig
    base_model_prefix = "slimresnet"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _input_embed_layer = "embedder"  # what `get_input_embeddings` returns: quantisers and adapters ask for it
    _no_split_modules = ["SlimResNetBasicLayer"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)  # BatchNorm, with its buffers
        if isinstance(module, nn.Conv2d) and self.config.initializer == "kaiming_normal":
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Conv2d):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        elif isinstance(module, nn.Linear):  # PyTorch's own default for nn.Linear
            bound = 1 / math.sqrt(module.in_features)
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)
        # Marked on the BatchNorm itself: transformers passes modules without parameters of their own over.
        elif self.config.zero_init_residual and getattr(module, "ends_residual", False):
            init.zeros_(module.weight)


class SlimResNetFeatures(SlimResNetPreTrainedModel):
    """Stem and stages, which the model and the backbone share."""

    def __init__(self, config: SlimResNetConfig):
        super().__init__(config)
        self.embedder = SlimResNetConvLayer(config.num_channels, config.embedding_size, 3, 1, config.hidden_act)
        self.encoder = SlimResNetEncoder(config)

    def features(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        if self.config.num_channels == 1 and pixel_values.ndim == 4 and pixel_values.shape[1] == 3:
            # No image processor of transformers' own makes grey images. This is ITU-R 601-2 luma, as Pillow rounds it.
            shares = pixel_values.new_tensor([19595, 38470, 7471]).div(65536).view(3, 1, 1)
            pixel_values = (pixel_values * shares).sum(dim=1, keepdim=True)
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.config.num_channels:
            raise ValueError(
                f"pixel_values must have the shape [batch, {self.config.num_channels}, height, width], "
                f"got {list(pixel_values.shape)}."
            )
        return self.encoder(self.embedder(pixel_values))


class SlimResNetModel(SlimResNetFeatures):
    """SlimResNet without a head."""

    def __init__(self, config: SlimResNetConfig):
        super().__init__(config)
        self.pooler = nn.AdaptiveAvgPool2d(1)
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, output_hidden_states: bool | None = None, **kwargs
    ) -> BaseModelOutputWithPoolingAndNoAttention:
        """
        Args:
            pixel_values: normalised images, float `[B, num_channels, H, W]`. A network of one channel takes RGB too,
                which it turns grey.
            output_hidden_states: also return the output of the stem and of every stage.

        Returns:
            `last_hidden_state` `[B, hidden_sizes[-1], h, w]`, `pooler_output` (its mean over h and w)
            `[B, hidden_sizes[-1]]`, and `hidden_states`.

        Raises:
            `ValueError`: `pixel_values` has another number of dimensions or channels.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_states = self.features(pixel_values)
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=hidden_states[-1],
            pooler_output=self.pooler(hidden_states[-1]).flatten(1),
            hidden_states=hidden_states if output_hidden_states else None,
        )


def image_classification_loss(logits: Tensor, labels: Tensor, problem_type: str | None) -> Tensor:
    """The loss that `SlimResNetForImageClassification.forward` describes."""
    if problem_type is None:
        if logits.shape[1] > 1 and labels.is_floating_point():
            raise ValueError(
                "Float labels need a problem_type in the config: single_label_classification for distributions over "
                "the classes, multi_label_classification, or regression."
            )
        problem_type = "regression" if logits.shape[1] == 1 else "single_label_classification"
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labels = labels.to(logits.device)
    if problem_type == "single_label_classification" and not labels.is_floating_point():
        if labels.shape not in (logits.shape[:1], (len(logits), 1)):
            raise ValueError(f"Class numbers must have the shape [{len(logits)}], got {list(labels.shape)}.")
        return nn.functional.cross_entropy(logits, labels.flatten().long())
    if labels.ndim == 1 and logits.shape[1] == 1:
        labels = labels[:, None]
    if labels.shape != logits.shape:  # PyTorch would broadcast
        raise ValueError(
            f"Labels of {problem_type} must have the shape {list(logits.shape)}, got {labels.dtype} "
            f"{list(labels.shape)}; the config's problem_type says what labels are."
        )
    labels = labels.to(logits.dtype)
    if problem_type == "regression":
        return nn.functional.mse_loss(logits, labels)
    if problem_type == "multi_label_classification":
        _assert_all((labels >= 0) & (labels <= 1), "Labels of multi_label_classification must be in 0 … 1.")
        return nn.functional.binary_cross_entropy_with_logits(logits, labels)
    sums = labels.sum(dim=1, keepdim=True)
    _assert_all(
        (labels >= 0) & ((sums - 1).abs() < 0.01),  # 0.01: rows of bfloat16 do not sum to 1 exactly
        "Float labels of single_label_classification must be distributions, with rows that sum to 1: for several "
        "classes an image set the config's problem_type to multi_label_classification.",
    )
    return nn.functional.cross_entropy(logits, labels)


def _assert_all(holds: Tensor, message: str):
    """
    Raises `RuntimeError` unless all of `holds` is true. A GPU is not waited for, so this stands in CUDA graphs and
    compiled code: it prints the message and raises when it is next waited for, as for class numbers out of range.
    """
    if holds.device.type in ("cpu", "cuda"):  # other devices may lack the operator
        torch._assert_async(holds.all(), message)


class SlimResNetForImageClassification(SlimResNetPreTrainedModel):
    """SlimResNet with a linear classifier on the pooled features."""

    # The loss is the mean over a batch. transformers' Trainer reads `**kwargs` as a promise to divide by the labels of
    # a whole step, of all batches on all processes, and then takes no mean over batches and processes itself.
    accepts_loss_kwargs = False

    def __init__(self, config: SlimResNetConfig):
        super().__init__(config)
        self.slimresnet = SlimResNetModel(config)
        self.classifier = nn.Linear(config.hidden_sizes[-1], config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, output_hidden_states: bool | None = None, **kwargs
    ) -> ImageClassifierOutputWithNoAttention:
        """
        Args:
            pixel_values: normalised images, float `[B, num_channels, H, W]`. A network of one channel takes RGB too,
                which it turns grey.
            labels: what they are says `config.problem_type`, as for transformers' image classifiers:
                single_label_classification: class numbers, integer `[B]` or `[B, 1]`, or distributions over the
                classes, float `[B, num_labels]` (CutMix, label smoothing); the loss is the mean cross entropy.
                multi_label_classification: 0 … 1, `[B, num_labels]`; the loss is the mean binary cross entropy.
                regression: `[B, num_labels]`, or `[B]` for one; the loss is the mean squared error.
                None: regression if `num_labels` is 1, else single-label classification of class numbers.
            output_hidden_states: also return the output of the stem and of every stage.

        Returns:
            `loss` (scalar, if `labels` are given), `logits` `[B, num_labels]`, and `hidden_states`.

        Raises:
            `ValueError`: `pixel_values` has another number of dimensions or channels, or `labels` another shape.
            `RuntimeError`: a distribution does not sum to 1, a label is out of range.
        """
        outputs = self.slimresnet(pixel_values, output_hidden_states=output_hidden_states, return_dict=True)
        logits = self.classifier(outputs.pooler_output)
        loss = None if labels is None else image_classification_loss(logits, labels, self.config.problem_type)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits, hidden_states=outputs.hidden_states)


class SlimResNetBackbone(BackboneMixin, SlimResNetFeatures):
    """Feature maps of the stages that `config.out_features` names, for detection and segmentation frameworks."""

    has_attentions = False

    def __init__(self, config: SlimResNetConfig):
        super().__init__(config)
        self.num_features = [config.embedding_size, *config.hidden_sizes]
        self.post_init()

    @can_return_tuple
    def forward(self, pixel_values: Tensor, output_hidden_states: bool | None = None, **kwargs) -> BackboneOutput:
        """
        Args:
            pixel_values: normalised images, float `[B, num_channels, H, W]`. A network of one channel takes RGB too,
                which it turns grey.
            output_hidden_states: also return the output of the stem and of every stage.

        Returns:
            `feature_maps`: a tuple of `[B, C, h, w]`, one for each of `out_features`, in the order of the stages.

        Raises:
            `ValueError`: `pixel_values` has another number of dimensions or channels.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_states = self.features(pixel_values)
        stages = dict(zip(self.stage_names, hidden_states, strict=True))
        return BackboneOutput(
            feature_maps=tuple(stages[name] for name in self.out_features),
            hidden_states=hidden_states if output_hidden_states else None,
        )


__all__ = [
    "SlimResNetBackbone",
    "SlimResNetForImageClassification",
    "SlimResNetModel",
    "SlimResNetPreTrainedModel",
]
