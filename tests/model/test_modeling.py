"""The network: the report's figures, the notebook's logits, and what transformers' common model tests promise."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modeling_slimresnet import (
    SlimResNetBackbone,
    SlimResNetConfig,
    SlimResNetForImageClassification,
    SlimResNetModel,
)
from modeling_slimresnet.modeling_slimresnet import SlimResNetBasicLayer

MODEL_CLASSES = [SlimResNetModel, SlimResNetForImageClassification, SlimResNetBackbone]


class NotebookBlock(nn.Module):
    """BasicBlock as the notebook of the report writes it, for any activation."""

    def __init__(self, in_planes, planes, stride, activation):
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False), nn.BatchNorm2d(planes)
            )

    def forward(self, x):
        out = self.activation(self.bn1(self.conv1(x)))
        return self.activation(self.bn2(self.conv2(out)) + self.shortcut(x))


class NotebookNetwork(nn.Module):
    """The whole of it, for other numbers than the notebook's too."""

    def __init__(self, channels, in_planes, widths, depths, strides, activation, classes):
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(channels, in_planes, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(in_planes)
        blocks = []
        for planes, depth, first_stride in zip(widths, depths, strides, strict=True):
            for stride in [first_stride] + [1] * (depth - 1):
                blocks.append(NotebookBlock(in_planes, planes, stride, activation))
                in_planes = planes
        self.layers = nn.Sequential(*blocks)
        self.linear = nn.Linear(in_planes, classes)

    def forward(self, x):
        out = self.layers(self.activation(self.bn1(self.conv1(x))))
        return self.linear(F.adaptive_avg_pool2d(out, 1).flatten(1))


# The second network has each kind of first block: other channels, another stride, both, neither.
@pytest.mark.parametrize(
    ("network", "fields", "size"),
    [
        ((3, 32, [32, 64, 128, 256], [4, 4, 4, 3], [1, 2, 2, 2], F.relu, 10), {}, (32, 32)),
        (
            (4, 5, [6, 6, 10, 10], [1, 3, 2, 1], [1, 2, 3, 1], F.silu, 7),
            {
                "num_channels": 4,
                "embedding_size": 5,
                "hidden_sizes": [6, 6, 10, 10],
                "depths": [1, 3, 2, 1],
                "strides": [1, 2, 3, 1],
                "hidden_act": "silu",
                "num_labels": 7,
            },
            (33, 20),
        ),
    ],
    ids=["default", "other"],
)
def test_logits_equal_the_notebooks_network(network, fields, size):
    notebook, model = NotebookNetwork(*network), SlimResNetForImageClassification(SlimResNetConfig(**fields))
    for module in notebook.modules():  # statistics and scales as after training, not 0 and 1
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    names = list(model.state_dict())
    values = list(notebook.state_dict().values())
    model.load_state_dict(dict(zip(names, values, strict=True)))
    images = torch.randn(8, network[0], *size)
    for mode in (False, True):
        expected = notebook.train(mode)(images)
        logits = model.train(mode)(images).logits
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    for name, value in zip(names, notebook.state_dict().values(), strict=True):  # after a batch of training
        torch.testing.assert_close(model.state_dict()[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_parameters_and_the_85_rows_of_the_reports_table():
    model = SlimResNetForImageClassification(SlimResNetConfig()).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_754_218
    rows = []

    def add_row(module, _, output):
        # The report's table (torchsummary) counts a block's parameters in the block's layers.
        own = 0 if isinstance(module, SlimResNetBasicLayer) else sum(p.numel() for p in module.parameters())
        name = {"SlimResNetBasicLayer": "BasicBlock"}.get(type(module).__name__, type(module).__name__)
        rows.append((f"{name}-{len(rows) + 1}", list(output.shape[1:]), own))

    listed = (nn.Conv2d, nn.BatchNorm2d, nn.AdaptiveAvgPool2d, nn.Linear, SlimResNetBasicLayer)
    for module in model.modules():
        if isinstance(module, listed):
            module.register_forward_hook(add_row)
    model(torch.zeros(1, 3, 32, 32))
    assert len(rows) == 85
    assert rows[:9] == [
        ("Conv2d-1", [32, 32, 32], 864),
        ("BatchNorm2d-2", [32, 32, 32], 64),
        ("Conv2d-3", [32, 32, 32], 9216),
        ("BatchNorm2d-4", [32, 32, 32], 64),
        ("Conv2d-5", [32, 32, 32], 9216),
        ("BatchNorm2d-6", [32, 32, 32], 64),
        ("BasicBlock-7", [32, 32, 32], 0),
        ("Conv2d-8", [32, 32, 32], 9216),
        ("BatchNorm2d-9", [32, 32, 32], 64),
    ]
    assert rows[-1] == ("Linear-85", [10], 2570)
    assert sum(own for _, _, own in rows) == 4_754_218


def test_hidden_act_reaches_every_layer():
    model = SlimResNetForImageClassification(SlimResNetConfig(hidden_act="gelu"))
    activations = [module for module in model.modules() if "activation" in type(module).__module__]
    assert len(activations) == 1 + 2 * 15  # the stem, and two in each block
    assert {type(module).__name__ for module in activations} == {"GELUActivation"}
    assert not any(isinstance(module, nn.ReLU) for module in model.modules())


@pytest.mark.parametrize("initializer", ["kaiming_normal", "kaiming_uniform"])
def test_first_weights_have_the_distributions_of_the_papers(initializer):
    """Every convolution, the shortcuts' with other numbers of channels in and out; the head as PyTorch's nn.Linear."""
    config = SlimResNetConfig(
        embedding_size=32, hidden_sizes=[64, 128], depths=[1, 1], strides=[1, 2], num_labels=50, initializer=initializer
    )
    for name, module in SlimResNetForImageClassification(config).named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        weight, is_normal = module.weight, isinstance(module, nn.Conv2d) and initializer == "kaiming_normal"
        pixels = weight[0, 0].numel()
        variance = 2 / (pixels * len(weight)) if is_normal else 1 / (3 * pixels * weight.shape[1])
        assert weight.std().item() == pytest.approx(variance**0.5, rel=0.1), name
        assert weight.mean().abs() < 4 * (variance / weight.numel()) ** 0.5, name
        kurtosis = (weight / variance**0.5).pow(4).mean().item()
        assert kurtosis == pytest.approx(3 if is_normal else 9 / 5, abs=0.5), name
        if isinstance(module, nn.Linear):
            bound = nn.Linear(module.in_features, 10_000).bias.abs().max().item()
            assert module.bias.abs().max().item() == pytest.approx(bound, rel=0.15), name
            assert abs(module.bias.mean().item()) < bound / 3, name


@pytest.mark.parametrize("zero", [False, True])
def test_the_last_batchnorm_of_every_block_may_start_at_zero(tiny_config, zero):
    tiny_config.depths, tiny_config.zero_init_residual = [1, 2], zero
    model = SlimResNetModel(tiny_config)
    last = {f"encoder.stages.{block}.layer.1.normalization" for block in ("0.0", "1.0", "1.1")}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.all(module.weight == (0 if zero and name in last else 1)) and not module.bias.any(), name
    images = torch.randn(2, 3, 16, 16)
    block = model.encoder.stages[1][1]
    hidden_state = model(images).last_hidden_state
    assert torch.equal(block(hidden_state), hidden_state) == zero


def test_class_numbers_and_distributions_give_the_same_cross_entropy(tiny_config):
    model = SlimResNetForImageClassification(tiny_config).eval()
    images, labels = torch.randn(6, 3, 16, 16), torch.tensor([0, 3, 9, 9, 5, 1])
    hard = model(images, labels=labels)
    soft = model(images, labels=F.one_hot(labels, 10).float())
    torch.testing.assert_close(hard.loss, F.cross_entropy(hard.logits, labels))
    torch.testing.assert_close(soft.loss, hard.loss)
    mixed = torch.rand(6, 10).softmax(dim=1)
    expected = -(mixed * hard.logits.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(model(images, labels=mixed).loss, expected)
    assert model.config.problem_type == "single_label_classification"


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 3, 16), (2, 1, 16, 16), (1, 3, 2, 16, 16)])
def test_a_wrong_shape_is_named(tiny_config, shape):
    with pytest.raises(ValueError, match="pixel_values"):
        SlimResNetForImageClassification(tiny_config)(torch.zeros(shape))


@pytest.mark.parametrize("size", [8, 24, 33, 64])
def test_takes_other_sizes(tiny_config, size):
    assert SlimResNetForImageClassification(tiny_config).eval()(torch.zeros(2, 3, size, size)).logits.shape == (2, 10)


def test_hidden_states_by_stage():
    model = SlimResNetForImageClassification(SlimResNetConfig()).eval()
    images = torch.randn(2, 3, 32, 32)
    assert model(images).hidden_states is None
    expected = [(2, 32, 32, 32), (2, 32, 32, 32), (2, 64, 16, 16), (2, 128, 8, 8), (2, 256, 4, 4)]
    outputs = model.slimresnet(images, output_hidden_states=True)
    assert [tuple(state.shape) for state in outputs.hidden_states] == expected
    torch.testing.assert_close(outputs.last_hidden_state, outputs.hidden_states[-1])
    torch.testing.assert_close(outputs.pooler_output, outputs.last_hidden_state.mean(dim=(2, 3)))
    model.config.output_hidden_states = True
    assert [tuple(state.shape) for state in model(images).hidden_states] == expected


@pytest.mark.parametrize("model_class", MODEL_CLASSES)
def test_return_dict_false_gives_the_same_as_a_tuple(tiny_config, model_class):
    model, images = model_class(tiny_config).eval(), torch.randn(2, 3, 16, 16)
    named = model(images, output_hidden_states=True)
    plain = model(images, output_hidden_states=True, return_dict=False)
    assert isinstance(plain, tuple) and len(plain) == len(named)
    torch.testing.assert_close(plain, named.to_tuple())
    model.config.return_dict = False
    torch.testing.assert_close(model(images, output_hidden_states=True), plain)


def test_backbone_gives_the_stages_it_is_asked_for():
    config = SlimResNetConfig(out_features=["stem", "stage2", "stage4"])
    backbone, images = SlimResNetBackbone(config).eval(), torch.randn(2, 3, 32, 32)
    assert backbone.channels == [32, 64, 256]
    assert backbone.out_feature_channels == {"stem": 32, "stage1": 32, "stage2": 64, "stage3": 128, "stage4": 256}
    outputs = backbone(images)
    assert [tuple(features.shape) for features in outputs.feature_maps] == [
        (2, 32, 32, 32),
        (2, 64, 16, 16),
        (2, 256, 4, 4),
    ]
    assert outputs.hidden_states is None
    assert len(backbone(images, output_hidden_states=True).hidden_states) == 5


@pytest.mark.parametrize("model_class", MODEL_CLASSES)
def test_save_load_save(tiny_config, model_class, tmp_path):
    model = model_class(tiny_config).eval()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    model.save_pretrained(tmp_path / "first")
    loaded, report = model_class.from_pretrained(tmp_path / "first", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert not loaded.training
    assert list(loaded.state_dict()) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    loaded.save_pretrained(tmp_path / "second")
    files = sorted(file.name for file in (tmp_path / "first").iterdir())
    assert files == ["config.json", "configuration_slimresnet.py", "model.safetensors", "modeling_slimresnet.py"]
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes(), name


@pytest.mark.parametrize("model_class", MODEL_CLASSES)
def test_missing_weights_are_initialised_not_left_as_memory(tiny_config, model_class, tmp_path):
    """transformers makes a model on the meta device, then fills what the file lacks by `_init_weights`."""
    model = model_class(tiny_config)
    state = {name: value for name, value in model.state_dict().items() if "normalization" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    loaded, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert report["missing_keys"] and all("normalization" in name for name in report["missing_keys"])
    for module in loaded.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
            assert (module.running_mean == 0).all() and (module.running_var == 1).all()
            assert module.num_batches_tracked == 0
    for name, value in state.items():
        assert torch.equal(loaded.state_dict()[name], value), name


def test_init_from_meta_gives_the_same_distribution(tiny_config):
    with torch.device("meta"):
        model = SlimResNetForImageClassification(tiny_config)
    assert all(parameter.is_meta for parameter in model.parameters())
    model.to_empty(device="cpu")
    model.apply(model._init_weights)
    reference = SlimResNetForImageClassification(tiny_config)
    for (name, value), expected in zip(model.state_dict().items(), reference.state_dict().values(), strict=True):
        assert value.isfinite().all(), name
        if "convolution" in name:
            assert value.std().item() == pytest.approx(expected.std().item(), rel=0.2), name
        elif "normalization" in name:
            assert torch.equal(value, expected), name


@pytest.mark.parametrize("model_class", MODEL_CLASSES)
def test_same_input_same_output(tiny_config, model_class):
    model, images = model_class(tiny_config).eval(), torch.randn(4, 3, 16, 16)
    first = model(images, output_hidden_states=True).to_tuple()
    second = copy.deepcopy(model)(images, output_hidden_states=True).to_tuple()
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_the_seed_decides_the_weights(tiny_config):
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        weights.append(SlimResNetForImageClassification(tiny_config).classifier.weight)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_batch_of_one_equals_its_row_of_a_batch(tiny_config):
    model, images = SlimResNetForImageClassification(tiny_config).eval(), torch.randn(5, 3, 16, 16)
    together = model(images, output_hidden_states=True)
    for row in range(5):
        alone = model(images[row : row + 1], output_hidden_states=True)
        torch.testing.assert_close(alone.logits, together.logits[row : row + 1], rtol=1e-5, atol=1e-5)
        for state, whole in zip(alone.hidden_states, together.hidden_states, strict=True):
            torch.testing.assert_close(state, whole[row : row + 1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
def test_gradient_reaches_every_parameter_and_every_hidden_state(tiny_config, channels_last):
    model = SlimResNetForImageClassification(tiny_config).train()
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    outputs = model(torch.randn(4, 3, 16, 16), labels=torch.arange(4), output_hidden_states=True)
    for state in outputs.hidden_states:
        state.retain_grad()
    outputs.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert all(state.grad.abs().sum() > 0 for state in outputs.hidden_states)


def test_other_number_of_labels_keeps_the_features(tiny_config, tmp_path):
    model = SlimResNetForImageClassification(tiny_config)
    model.save_pretrained(tmp_path)
    loaded, report = SlimResNetForImageClassification.from_pretrained(
        tmp_path, num_labels=3, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert {name for name, *_ in report["mismatched_keys"]} == {"classifier.weight", "classifier.bias"}
    assert loaded.classifier.weight.shape == (3, 16) and loaded.config.num_labels == 3
    for name, value in model.slimresnet.state_dict().items():
        assert torch.equal(loaded.slimresnet.state_dict()[name], value), name
    assert loaded(torch.zeros(1, 3, 16, 16)).logits.shape == (1, 3)
    with pytest.raises(RuntimeError, match="mismatch"):
        SlimResNetForImageClassification.from_pretrained(tmp_path, num_labels=3)
