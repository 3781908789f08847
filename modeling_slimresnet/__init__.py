"""The SlimResNet model: config, network, Auto class registration.

All that pip installs and all that travels to the Hub. Nothing of data, training or evaluation belongs here.
"""

from transformers import AutoBackbone, AutoConfig, AutoModel, AutoModelForImageClassification

from .configuration_slimresnet import SlimResNetConfig
from .modeling_slimresnet import (
    SlimResNetBackbone,
    SlimResNetForImageClassification,
    SlimResNetModel,
    SlimResNetPreTrainedModel,
)

__version__ = "0.1.0"

AutoConfig.register(SlimResNetConfig.model_type, SlimResNetConfig)
for auto_class, model_class in (
    (AutoModel, SlimResNetModel),
    (AutoModelForImageClassification, SlimResNetForImageClassification),
    (AutoBackbone, SlimResNetBackbone),
):
    auto_class.register(SlimResNetConfig, model_class)
    model_class.register_for_auto_class(auto_class.__name__)  # `save_pretrained` then copies the model files

__all__ = [
    "SlimResNetBackbone",
    "SlimResNetConfig",
    "SlimResNetForImageClassification",
    "SlimResNetModel",
    "SlimResNetPreTrainedModel",
]
