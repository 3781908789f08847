"""SlimResNet configuration."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneConfigMixin

CIFAR10_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# A larger size, channel count, depth or stride is a slip of the hand, and some strides above it crash PyTorch itself.
LARGEST = 8192

# `save_pretrained` adds the entry of the saved class alone; a folder that every Auto class can open needs all four.
AUTO_MAP = {
    "AutoConfig": "configuration_slimresnet.SlimResNetConfig",
    "AutoModel": "modeling_slimresnet.SlimResNetModel",
    "AutoModelForImageClassification": "modeling_slimresnet.SlimResNetForImageClassification",
    "AutoBackbone": "modeling_slimresnet.SlimResNetBackbone",
}


@strict
class SlimResNetConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of a SlimResNet: a residual network (He et al., 2016, "Deep Residual Learning for Image
    Recognition") of basic blocks for small images. The defaults give the 4,754,218-parameter network for CIFAR-10.

    Args:
        num_channels (`int`, defaults to 3): Channels of the input image: 3 for RGB, 1 for grey.
        image_size (`int`, defaults to 32): Height and width in pixels that the weights are trained for. The network
            is fully convolutional and takes other sizes too.
        embedding_size (`int`, defaults to 32): Channels that the stem puts out.
        hidden_sizes (`list[int]`, defaults to `[32, 64, 128, 256]`): Channels of each stage.
        depths (`list[int]`, defaults to `[4, 4, 4, 3]`): Basic blocks in each stage.
        strides (`list[int]`, defaults to `[1, 2, 2, 2]`): Stride of the first block of each stage.
        hidden_act (`str`, defaults to `"relu"`): Activation after the stem and within every block; a key of
            `transformers.activations.ACT2FN`.
        initializer (`"kaiming_normal"` or `"kaiming_uniform"`, defaults to `"kaiming_normal"`): How convolutions start:
            normal with variance 2 / fan-out (He et al., 2015, section 2.2), or PyTorch's default for `nn.Conv2d`,
            uniform in ±1 / sqrt(fan-in).
        zero_init_residual (`bool`, defaults to `False`): Start the last BatchNorm of every block at scale 0, so that
            each block begins as the identity (Goyal et al., 2017, section 5.1).
        out_features, out_indices (`list`, *optional*): Stages whose feature maps the backbone returns, by name
            (`"stem"`, `"stage1"`, …) or by index; the last stage by default.

    Raises:
        `huggingface_hub.errors.StrictDataclassError`: a field has the wrong type or an impossible value, or
        `hidden_sizes`, `depths` and `strides` differ in length; the message names the field.
        `ValueError`: `out_features` or `out_indices` name no stage.
    """

    model_type = "slimresnet"

    num_channels: int = 3
    image_size: int = 32
    embedding_size: int = 32
    hidden_sizes: list[int] | tuple[int, ...] = (32, 64, 128, 256)
    depths: list[int] | tuple[int, ...] = (4, 4, 4, 3)
    strides: list[int] | tuple[int, ...] = (1, 2, 2, 2)
    hidden_act: str = "relu"
    initializer: Literal["kaiming_normal", "kaiming_uniform"] = "kaiming_normal"
    zero_init_residual: bool = False
    # transformers reads float labels as several classes at once unless this is set; here they are distributions.
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = (
        "single_label_classification"
    )

    def __setattr__(self, name, value):
        """`label2id` follows `id2label`, also where `from_pretrained` or `num_labels` sets that."""
        if name == "id2label" and value is not None:
            if not _names_every_class(value):
                raise ValueError(f"id2label must map the class numbers 0, 1, … to names, got {value!r}.")
            value = {int(index): label for index, label in value.items()}
            if {str(index): label for label, index in (self.label2id or {}).items()} != {
                str(index): label for index, label in value.items()
            }:
                self.label2id = {label: index for index, label in value.items()}
        super().__setattr__(name, value)

    def __post_init__(self, **kwargs):
        num_labels = kwargs.get("num_labels")
        if num_labels is None:
            kwargs.pop("num_labels", None)  # null says as much as no field, but transformers would count to it
        elif type(num_labels) is not int or num_labels < 1:
            raise ValueError(f"num_labels must be a number of classes, got {num_labels!r}.")
        if self.id2label is None and self.label2id:
            self.id2label = {index: label for label, index in self.label2id.items()}
        elif self.id2label is None and num_labels is None:
            self.id2label = dict(enumerate(CIFAR10_LABELS))
        for field in ("hidden_sizes", "depths", "strides"):
            setattr(self, field, list(getattr(self, field)))
        self.auto_map = kwargs.pop("auto_map", None) or dict(AUTO_MAP)
        kwargs.pop("stage_names", None)  # derived from `depths`, whatever an edited file says
        self.stage_names = ["stem"] + [f"stage{index}" for index in range(1, len(self.depths) + 1)]
        out_features, out_indices = kwargs.pop("out_features", None), kwargs.pop("out_indices", None)
        try:
            self.set_output_features_output_indices(out_features=out_features, out_indices=out_indices)
        except TypeError:  # an entry of another type; a ValueError names the field itself
            raise ValueError(
                f"out_features takes names and out_indices numbers of stages, got {out_features} and {out_indices}."
            ) from None
        super().__post_init__(**kwargs)

    def to_diff_dict(self):
        """What config.json holds. transformers leaves the classes LABEL_0 and LABEL_1 out: its default, not ours."""
        return {**super().to_diff_dict(), "id2label": self.id2label}

    def validate_architecture(self):
        """Part of the `@strict` validation: runs when the config is made and when it is saved."""
        if not len(self.hidden_sizes) == len(self.depths) == len(self.strides) > 0:
            raise ValueError(
                "hidden_sizes, depths and strides need one entry a stage, but have "
                f"{len(self.hidden_sizes)}, {len(self.depths)} and {len(self.strides)}."
            )
        for field in ("num_channels", "image_size", "embedding_size"):
            if not 1 <= getattr(self, field) <= LARGEST:
                raise ValueError(f"{field} must be in 1 … {LARGEST}, got {getattr(self, field)}.")
        for field in ("hidden_sizes", "depths", "strides"):
            if not all(1 <= entry <= LARGEST for entry in getattr(self, field)):
                raise ValueError(f"every entry of {field} must be in 1 … {LARGEST}, got {getattr(self, field)}.")
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act must be one of {', '.join(sorted(ACT2FN))}; got {self.hidden_act!r}.")


def _names_every_class(id2label) -> bool:
    """Whether it is a map of 0, 1, … (as text in JSON) to text, without gaps."""
    return (
        isinstance(id2label, dict)
        and len(id2label) > 0
        and {str(index) for index in id2label} == {str(index) for index in range(len(id2label))}
        and all(isinstance(label, str) for label in id2label.values())
    )


__all__ = ["SlimResNetConfig"]
