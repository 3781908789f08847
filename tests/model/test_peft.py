"""Adapters of PEFT: what has to be trained and saved beside them for a network with BatchNorm."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from modeling_slimresnet import SlimResNetForImageClassification


def adapted(config, modules_to_save):
    """A network with adapters that were trained for three steps on images of another mean and spread."""
    torch.manual_seed(0)
    model = SlimResNetForImageClassification(config)
    settings = LoraConfig(r=4, target_modules=["convolution"], modules_to_save=modules_to_save)
    model = get_peft_model(model, settings).train()
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
    for step in range(3):
        images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(step)) * 3 + 1
        model(pixel_values=images, labels=torch.arange(8) % 10).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def reloaded(config, model, folder):
    model.save_pretrained(folder)
    torch.manual_seed(0)
    return PeftModel.from_pretrained(SlimResNetForImageClassification(config), folder).eval()


@pytest.mark.filterwarnings("ignore")
def test_head_and_normalization_beside_the_adapters_come_back_as_trained(tiny_config, tmp_path):
    model = adapted(tiny_config, ["classifier", "normalization"])
    pixel_values = torch.randn(4, 3, 16, 16)
    again = reloaded(tiny_config, model, tmp_path / "adapter")
    expected = model(pixel_values=pixel_values).logits
    assert torch.equal(again(pixel_values=pixel_values).logits, expected)
    merged = again.merge_and_unload()  # a plain network, which these tools take
    assert type(merged) is SlimResNetForImageClassification
    merged.save_pretrained(tmp_path / "merged")
    plain = SlimResNetForImageClassification.from_pretrained(tmp_path / "merged").eval()
    assert torch.allclose(plain(pixel_values).logits, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_without_normalization_the_statistics_of_batchnorm_are_lost(tiny_config, tmp_path):
    """Why the README asks for it: training changes the statistics, and the adapter alone does not hold them."""
    model = adapted(tiny_config, ["classifier"])
    pixel_values = torch.randn(4, 3, 16, 16)
    again = reloaded(tiny_config, model, tmp_path)
    expected = model(pixel_values=pixel_values).logits
    assert not torch.allclose(again(pixel_values=pixel_values).logits, expected, atol=0.01)
