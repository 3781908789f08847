"""Scores on a GPU, where they must be those of a CPU. Elsewhere each test says that it needs one."""

import numpy as np
import pytest
import torch
from conftest import SAMPLE

from benchmarks.write_readme import PRETRAINED
from slimresnet.data.loader import Loading
from slimresnet.data.sources.dataset import open_split
from slimresnet.evaluation.logits import predict_logits
from slimresnet.evaluation.tta import POLICIES, views_of
from slimresnet.formats.registry import find_format

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="it needs a GPU")]


def logits(device, batch_size, layout=torch.channels_last):
    """Of 64 test images in every view, by the shipped network, whose logits are a trained network's."""
    network, normalize, _ = find_format("torch").open_network(PRETRAINED, trust_remote_code=False)
    split = open_split(str(SAMPLE), "test", image_size=32, resident_on=torch.device(device))
    return predict_logits(
        network.to(device, memory_format=layout), split, np.arange(64), Loading(torch.device(device)),
        batch_size=batch_size, normalize=normalize, views=views_of(*POLICIES),
    )  # fmt: skip


@pytest.fixture(scope="module")
def on_cpu():
    return logits("cpu", 32)


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("batch_size", [64, 25])
def test_logits_of_a_gpu_are_those_of_a_cpu(on_cpu, monkeypatch, batch_size, layout, search):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", search)
    on_gpu = logits("cuda", batch_size, layout)
    assert on_gpu.keys() == on_cpu.keys()
    for view, expected in on_cpu.items():
        assert on_gpu[view].device.type == "cpu"
        torch.testing.assert_close(on_gpu[view], expected, rtol=0, atol=1e-3, msg=view)
