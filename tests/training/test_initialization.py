"""First weights that are computed from the training images."""

import pytest
import torch
from torch.nn import functional as F
from training_runs import by_hand, train, weights

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.cli.train import parse_recipe
from slimresnet.training.initialization import whiten_stem


def images(count=64):
    """Neighbouring pixels and channels go together, as in photographs."""
    coarse = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(coarse, size=(32, 32), mode="bilinear")
    return smooth + 0.3 * torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("channels", [16, 7, 60])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_whitened_stem_gives_uncorrelated_responses_and_their_negatives(channels, layout):
    torch.manual_seed(0)
    config = SlimResNetConfig(embedding_size=channels, hidden_sizes=[8], depths=[1], strides=[1])
    model = SlimResNetForImageClassification(config).to(memory_format=layout)
    kernel = model.slimresnet.embedder.convolution.weight
    before = kernel.detach().clone()
    whiten_stem(model, images())
    components = min(27, -(-channels // 2))
    assert torch.equal(kernel[2 * components :], before[2 * components :])
    negatives = kernel[components : 2 * components]
    assert torch.equal(negatives, -kernel[: len(negatives)])

    responses = F.conv2d(images(), kernel[:components]).transpose(0, 1).flatten(1)
    covariance = torch.cov(responses)
    variances = covariance.diagonal()
    assert torch.all(variances[:-1] >= variances[1:])
    assert (covariance - variances.diag()).abs().max() < 1e-3 * variances.max()
    norms = kernel[: 2 * components].flatten(1).norm(dim=1)
    assert torch.allclose(norms, before.flatten(1).norm(dim=1).mean())


def test_training_starts_from_it(flags, tiny_config_dir):
    """From the images that are trained on, normalised, and no others."""
    flags += ["--stem_initialization=whitening", "--learning_rate=0", "--max_train_steps=1"]
    kernel = weights(train(flags))["slimresnet.embedder.convolution.weight"]
    model, batches = by_hand(parse_recipe(flags), tiny_config_dir, batch_size=224)
    [(pixel_values, _)] = batches
    whiten_stem(model, pixel_values)
    expected = model.slimresnet.embedder.convolution.weight.detach()
    alike = F.cosine_similarity(kernel.flatten(1), expected.flatten(1))
    torch.testing.assert_close(alike.abs(), torch.ones(16), rtol=0, atol=1e-4)  # either sign is an eigenvector's
