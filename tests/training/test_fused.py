"""The fused BatchNorm against PyTorch's. Without a GPU its kernels run in Triton's interpreter."""

import copy
from unittest.mock import Mock

import pytest
import torch
from conftest import run_python
from torch import nn
from training_runs import read, train, weights

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from modeling_slimresnet.modeling_slimresnet import SlimResNetBasicLayer, SlimResNetConvLayer

pytest.importorskip("triton", reason="it needs Triton, which the dev extra installs on Linux on x86_64")
from slimresnet.training.fused.batch_norm import batch_norm
from slimresnet.training.fused.layers import fuse_layers

# On a GPU `pytest -m gpu` takes them, too.
pytestmark = [pytest.mark.gpu] if torch.cuda.is_available() else []

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Several blocks of rows and an unfinished one; channels that divide no power of two; a row of more than one block.
SHAPES = [(5, 16, 11, 11), (3, 6, 30, 30), (2, 258, 2, 3)]


def layer(channels):
    """BatchNorm with parameters and statistics of its own."""
    norm = nn.BatchNorm2d(channels, device=DEVICE)
    generator = torch.Generator().manual_seed(channels)
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean):
            value.copy_(torch.randn(channels, generator=generator))
    return norm


def reference(x, norm, residual, relu):
    """In float64, the running statistics by PyTorch's own layer."""
    with torch.backends.cudnn.flags(enabled=False):  # PyTorch's own, which takes no differences of large numbers
        norm(x)
    result = nn.functional.batch_norm(x.double(), None, None, norm.weight.double(), norm.bias.double(), training=True)
    result = result if residual is None else result + residual.double()
    return result.relu() if relu else result


@pytest.mark.parametrize(
    ("shape", "dtype", "relu", "adds"),
    [
        (SHAPES[0], torch.float32, True, True),
        (SHAPES[0], torch.bfloat16, True, False),
        (SHAPES[0], torch.float32, False, True),
        (SHAPES[1], torch.float32, True, False),
        (SHAPES[1], torch.bfloat16, True, True),
        (SHAPES[1], torch.bfloat16, False, False),
        (SHAPES[2], torch.float32, True, True),
    ],
)
def test_values_gradients_and_statistics_are_batchnorms(shape, dtype, relu, adds):
    torch.manual_seed(0)
    # Means far from 0: a variance taken from plain sums of squares would be off.
    x = torch.randn(shape) + 100 * torch.randn(shape[1]).view(-1, 1, 1)
    x, added, grad = (value.to(DEVICE, dtype) for value in (x, torch.randn(shape), torch.randn(shape)))
    found = []
    for function in (batch_norm, reference):
        norm = layer(shape[1])
        given = [x.clone().requires_grad_(), *([added.clone().requires_grad_()] if adds else [])]
        result = function(given[0], norm, residual=given[1] if adds else None, relu=relu)
        result.backward(grad.to(result.dtype))
        gradients = [value.grad for value in (*given, *norm.parameters())]
        found.append([result.detach(), *gradients, norm.running_mean, norm.running_var])
        assert norm.num_batches_tracked == 1
    assert found[0][0].is_contiguous(memory_format=torch.channels_last) and found[0][0].dtype == dtype
    for value, expected in zip(*found, strict=True):
        tolerance = 1e-2 if value.dtype == torch.bfloat16 else 2e-4
        torch.testing.assert_close(value.double(), expected.double(), rtol=tolerance, atol=tolerance)


def test_any_order_of_memory_is_taken():
    torch.manual_seed(0)
    x = torch.randn(2, 8, 6, 6, device=DEVICE)
    orders = [x, x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)]
    results = [
        batch_norm(each, layer(8), residual=other, relu=True)
        for each, other in zip(orders, reversed(orders), strict=True)
    ]
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_one_value_a_channel_has_no_variance():
    with pytest.raises(ValueError, match=r"more than 1 value per channel.*\[1, 8, 1, 1\]"):
        batch_norm(torch.ones(1, 8, 1, 1, device=DEVICE), layer(8), relu=True)


def test_float16_is_taken():
    x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    result = batch_norm(x.half(), layer(8), relu=True)
    assert result.dtype == torch.float16
    torch.testing.assert_close(result.float(), batch_norm(x, layer(8), relu=True), rtol=1e-2, atol=1e-2)


def test_a_network_that_diverged_says_so():
    x = torch.randn(2, 8, 6, 6, device=DEVICE)
    x[0, 3, 0, 0] = torch.nan
    broken = batch_norm(x, layer(8), relu=True).isnan().any(dim=(0, 2, 3))
    assert broken.tolist() == [channel == 3 for channel in range(8)]


def test_places_that_32_bits_do_not_hold_are_refused():
    x = torch.empty(1, device=DEVICE).expand(1_398_101, 96, 4, 4)  # with the last block's empty rows above 2³¹
    with pytest.raises(ValueError, match="2,147,483,136 values are too many at once: lower --per_device_train_batch"):
        batch_norm(x, layer(96), relu=True)


@pytest.fixture
def networks(tiny_config):
    """The same network twice, the second one with fused layers."""
    torch.manual_seed(0)
    plain = SlimResNetForImageClassification(tiny_config).to(DEVICE, memory_format=torch.channels_last)
    fused = copy.deepcopy(plain)
    fuse_layers(fused)
    assert not {type(module) for module in fused.modules()} & {SlimResNetConvLayer, SlimResNetBasicLayer}
    return plain, fused


def test_a_fused_network_learns_as_the_plain_one(networks):
    inputs = {"pixel_values": torch.randn(4, 3, 16, 16), "labels": torch.randn(4, 10).softmax(dim=1)}
    inputs = {name: value.to(DEVICE) for name, value in inputs.items()}
    plain, fused = networks
    losses = []
    for network in networks:
        optimizer = torch.optim.SGD(network.train().parameters(), lr=0.1, momentum=0.9)
        losses.append([])
        for _ in range(2):
            loss = network(**inputs).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[-1].append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0][0] != pytest.approx(losses[0][1], rel=2e-3)
    assert plain.state_dict().keys() == fused.state_dict().keys()
    for (name, value), expected in zip(fused.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-5, msg=name)


def test_a_fused_network_is_scored_as_the_plain_one(networks):
    plain, fused = (network.eval() for network in networks)
    pixel_values = torch.randn(4, 3, 16, 16, device=DEVICE)
    assert torch.equal(plain(pixel_values).logits, fused(pixel_values).logits)


def test_a_run_of_fused_steps_is_the_run_of_plain_ones(flags, tmp_path, monkeypatch):
    """Sharpness-aware: such a step goes through the network twice. The interpreter takes a second for few channels."""
    config = SlimResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], strides=[1])
    config.save_pretrained(tmp_path / "config")
    flags += [
        f"--config_name={tmp_path / 'config'}",
        "--max_train_steps=2",
        "--total_train_batch_size=8",
        "--learning_rate=0.01",
        "--max_eval_samples=20",
    ]
    flags += ["--sam_rho=0.05"]
    if DEVICE == "cuda":
        flags.remove("--use_cpu")
    plain = train(flags)
    fused_norm = Mock(side_effect=batch_norm)
    monkeypatch.setattr("slimresnet.training.fused.layers.batch_norm", fused_norm)
    fused = train(flags, f"--output_dir={tmp_path / 'fused'}", "--fused_batchnorm=true")
    assert fused_norm.call_count == 2 * 2 * 3 or DEVICE == "cuda"  # steps, passes, layers; a graph is captured once
    first, second = (read(folder, "trainer_state.json")["log_history"][-1] for folder in (plain, fused))
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)
    assert second["eval_loss"] == pytest.approx(first["eval_loss"], rel=1e-3)
    for name, value in weights(fused).items():
        torch.testing.assert_close(value, weights(plain)[name], rtol=1e-3, atol=1e-4, msg=name)


def test_frozen_statistics_stay(networks):
    plain, fused = (network.train() for network in networks)
    pixel_values = torch.randn(4, 3, 16, 16, device=DEVICE)
    for network in networks:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    assert torch.equal(plain(pixel_values).logits, fused(pixel_values).logits)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from slimresnet.training.fused import kernels
FLAGS = {"has_residual": True, "relu": True, "block": 1024, "block_rows": 16, "block_columns": 256}
NUMBERS = dict.fromkeys(("count", "momentum", "eps"), "fp32") | {"num_batches_tracked": "*i64"}
for name in ("num_rows", "num_parts", "num_channels", "width", "numel"):
    NUMBERS[name] = "i32"
for name in ("x", "out", "residual", "grad_out", "grad_residual", "grad_x"):
    NUMBERS[name] = "*bf16"
for name, kernel in vars(kernels).items():
    if not name.startswith(("forward_", "backward_")):
        continue
    constants = {argument: FLAGS[argument] for argument in kernel.arg_names if argument in FLAGS}
    signature = {
        argument: "constexpr" if argument in constants else NUMBERS.get(argument, "*fp32")
        for argument in kernel.arg_names
    }
    # What Triton finds at a launch over channels that are a multiple of 16.
    aligned = [
        (number,) for number, (argument, kind) in enumerate(signature.items())
        if kind.startswith("*") or argument in ("num_channels", "width", "numel")
    ]
    source = ASTSource(kernel, signature, constants, {place: [["tt.divisibility", 16]] for place in aligned})
    code = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    ptx = code.asm["ptx"]
    print(name, ptx.count(".global.v4.b32"), ptx.count("max.f32"), ptx.count("max.NaN.f32"), flush=True)
"""


@pytest.mark.processes
@pytest.mark.slow
def test_kernels_compile_for_a_gpu_that_is_not_there(tmp_path, monkeypatch):
    """For an H100. Those over feature maps read and write 16 bytes at once, and no maximum takes NaN for 0."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    process = run_python("-c", COMPILE)
    assert process.returncode == 0, process.stderr
    found = {name: counts for name, *counts in map(str.split, process.stdout.splitlines())}
    wide = {name: wide for name, (wide, _, _) in found.items()}
    assert {swallow for _, swallow, _ in found.values()} == {"0"}
    assert {name for name, (_, _, keep) in found.items() if int(keep)} == {"forward_channels", "forward_apply"}
    assert set(wide) == {
        f"{way}_{kernel}" for way in ("forward", "backward") for kernel in ("sums", "channels", "apply")
    }
    for name, count in wide.items():
        assert (int(count) > 0) is not name.endswith("_channels")
