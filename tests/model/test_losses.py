"""What a label means, and what a loss is the mean of, as transformers' Trainer and its image classifiers have it."""

import json

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, run_python
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import ViTImageProcessorPil, pipeline
from transformers.loss.loss_utils import ForSequenceClassificationLoss

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from modeling_slimresnet.modeling_slimresnet import image_classification_loss
from slimresnet.formats.trained import ModelError, load_model

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"

# One step of transformers' Trainer with BatchNorm frozen, on the same 16 images however they are cut into batches. The
# processes are forked before PyTorch computes anything.
TRAINER = """
import json, sys
import torch
from accelerate import debug_launcher
from transformers import Trainer, TrainingArguments
from modeling_slimresnet import SlimResNetForImageClassification

folder = sys.argv[1]

def step(batch_size, accumulation, processes):
    data = torch.load(folder + "/data.pt")
    rows = [{"pixel_values": image, "labels": label} for image, label in zip(data["images"], data["labels"])]
    model = SlimResNetForImageClassification.from_pretrained(folder)
    model.train = lambda mode=True: model
    arguments = TrainingArguments(
        folder, per_device_train_batch_size=batch_size, gradient_accumulation_steps=accumulation, max_steps=1,
        logging_steps=1, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    logged = trainer.state.log_history[0]
    assert arguments.world_size == processes
    if arguments.process_index == 0:
        with open(folder + "/steps.jsonl", "a") as file:
            print(json.dumps([logged["loss"], logged["grad_norm"]]), file=file)

def steps_of_two():
    step(8, 1, 2)
    step(2, 4, 2)

debug_launcher(steps_of_two)
for batch_size in (16, 8, 4):
    step(batch_size, 16 // batch_size, 1)
"""


@pytest.mark.processes
@pytest.mark.slow
def test_the_trainer_gives_the_same_loss_and_gradients_however_16_images_are_cut(tiny_config, tmp_path):
    """A forward with `**kwargs` is taken to divide by the number of samples itself, unless the class says no."""
    model = SlimResNetForImageClassification(tiny_config).eval()
    images, labels = torch.randn(16, 3, 16, 16), torch.randint(10, (16,))
    loss = F.cross_entropy(model(images).logits, labels)
    loss.backward()
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm()
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    torch.save({"images": images, "labels": labels}, folder / "data.pt")
    (tmp_path / "step.py").write_text(TRAINER)
    process = run_python(tmp_path / "step.py", folder, PYTHONPATH=str(REPOSITORY), OMP_NUM_THREADS="1")
    assert process.returncode == 0, process.stderr[-3000:]
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    assert len(steps) == 5
    for logged in steps:
        assert logged == pytest.approx([loss.item(), norm.item()], rel=1e-4)


def loss_and_gradient(loss, logits, labels, *more):
    logits = logits.clone().requires_grad_()
    value = loss(logits, labels, *more)
    value.backward()
    return value.detach(), logits.grad


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels"),
    [
        (SINGLE, 4, torch.tensor([0, 3, 1, 1, 2])),
        (SINGLE, 4, torch.tensor([[0], [3], [1], [1], [2]])),
        (MULTI, 4, torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 0], [0.5, 0, 0.25, 1]])),
        (MULTI, 1, torch.tensor([[0.0], [1], [1], [0], [1]])),
        (REGRESSION, 4, torch.linspace(-2, 3, 20).view(5, 4)),
        (REGRESSION, 1, torch.linspace(-2, 3, 5)),
        (REGRESSION, 1, torch.linspace(-2, 3, 5)[:, None]),
        (None, 4, torch.tensor([0, 3, 1, 1, 2])),
        (None, 1, torch.linspace(-2, 3, 5)),
    ],
)
def test_losses_are_those_of_transformers(problem_type, num_labels, labels):
    def transformers_loss(logits, labels):
        config = SlimResNetConfig(num_labels=num_labels, problem_type=problem_type)
        return ForSequenceClassificationLoss(labels, logits, config)

    logits = torch.randn(5, num_labels)
    expected = loss_and_gradient(transformers_loss, logits, labels)
    torch.testing.assert_close(loss_and_gradient(image_classification_loss, logits, labels, problem_type), expected)


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI, REGRESSION, None])
def test_a_network_follows_its_config_and_leaves_it_as_it_is(tiny_config, problem_type, tmp_path):
    tiny_config.num_labels, tiny_config.problem_type = 2, problem_type
    model = SlimResNetForImageClassification(tiny_config).train()
    labels = torch.tensor([0, 1, 1, 0]) if problem_type in (SINGLE, None) else torch.rand(4, 2)
    before = model.config.to_dict()
    outputs = model(torch.randn(4, 3, 16, 16), labels=labels)
    torch.testing.assert_close(outputs.loss, image_classification_loss(outputs.logits, labels, problem_type))
    outputs.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert model.config.to_dict() == before
    model.save_pretrained(tmp_path)
    assert SlimResNetForImageClassification.from_pretrained(tmp_path).config.problem_type == problem_type


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(6,), (6, 1)])
def test_class_numbers_of_any_integer_type(dtype, shape):
    logits, labels = torch.randn(6, 10), torch.tensor([0, 3, 9, 9, 5, 1])
    loss = image_classification_loss(logits, labels.to(dtype).view(shape), SINGLE)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_distributions_of_any_float_type(dtype):
    """Rows of 100 classes do not sum to 1 exactly in bfloat16, nor do they need to."""
    logits, labels = torch.randn(64, 100), (3 * torch.randn(64, 100)).softmax(dim=1).to(dtype)
    loss = image_classification_loss(logits, labels, SINGLE)
    expected = -(labels.double() * logits.double().log_softmax(dim=1)).sum(dim=1).mean()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected.float())


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI, REGRESSION])
def test_labels_are_not_rounded_to_the_precision_of_the_network(problem_type):
    logits, labels = torch.randn(8, 3).bfloat16(), torch.rand(8, 3).softmax(dim=1)
    loss = image_classification_loss(logits, labels, problem_type)
    torch.testing.assert_close(loss, image_classification_loss(logits.float(), labels, problem_type))


def test_numbers_of_several_classes_may_be_integers():
    logits, labels = torch.randn(5, 3), torch.randint(2, (5, 3))
    loss = image_classification_loss(logits, labels, MULTI)
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(logits, labels.float()))


ROWS = [[0.25, 0.25, 0.5], [1.0, 0.0, 0.0]]


@pytest.mark.parametrize(
    ("problem_type", "labels", "said"),
    [
        (SINGLE, [[1.0, 1.0, 0.0], ROWS[0]], r"rows that sum to 1: .* problem_type to multi_label_classification"),
        (SINGLE, [[0.0, 0.0, 0.0], ROWS[0]], "rows that sum to 1"),
        (SINGLE, [[1.5, -0.5, 0.0], ROWS[0]], "must be distributions"),
        (SINGLE, [[0.5, 0.45, 0.02], ROWS[0]], "rows that sum to 1"),
        (SINGLE, [[float("nan"), 0.5, 0.5], ROWS[0]], "must be distributions"),
        (SINGLE, [[float("inf"), 0.0, 0.0], ROWS[0]], "must be distributions"),
        (SINGLE, [0.0, 2.0], r"must have the shape \[2, 3\], got torch.float32 \[2\]; the config's problem_type"),
        (SINGLE, [[0.0], [2.0]], r"got torch.float32 \[2, 1\]"),
        (SINGLE, [[0, 1, 0], [1, 0, 0]], r"Class numbers must have the shape \[2\], got \[2, 3\]"),
        (SINGLE, [0, 1, 2], r"got \[3\]"),
        (MULTI, [0, 2], r"must have the shape \[2, 3\], got torch.int64 \[2\]"),
        (MULTI, [[0.0, 1.0, 2.0], ROWS[0]], r"in 0 … 1"),
        (MULTI, [[0.0, -1.0, 0.0], ROWS[0]], r"in 0 … 1"),
        (MULTI, [[0.0, float("nan"), 0.0], ROWS[0]], r"in 0 … 1"),
        (REGRESSION, [0.0, 1.0], r"regression must have the shape \[2, 3\]"),
        (REGRESSION, [[0.0], [1.0]], r"regression must have the shape \[2, 3\]"),
        (None, ROWS, r"Float labels need a problem_type"),
        (None, [[1.0, 1.0, 0.0], ROWS[0]], r"Float labels need a problem_type"),
    ],
)
def test_labels_of_another_kind_are_refused_in_one_sentence(problem_type, labels, said):
    with pytest.raises((ValueError, RuntimeError), match=said) as error:
        image_classification_loss(torch.randn(2, 3), torch.tensor(labels), problem_type)
    assert "\n" not in str(error.value)


def test_one_value_for_each_image_is_not_broadcast():
    """PyTorch would take [4, 1] and [1, 4], and compare each image with every value."""
    with pytest.raises(ValueError, match=r"must have the shape \[4, 1\], got torch.float32 \[1, 4\]"):
        image_classification_loss(torch.randn(4, 1), torch.rand(1, 4), REGRESSION)


def test_a_compiled_network_has_the_same_loss_and_refuses_the_same(tiny_config):
    model = SlimResNetForImageClassification(tiny_config).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    images, labels = torch.randn(4, 3, 16, 16), torch.rand(4, 10).softmax(dim=1)
    results = []
    for network in (model, compiled):
        loss = network(images, labels=labels).loss
        results.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    torch.testing.assert_close(*results)
    with pytest.raises(RuntimeError, match="rows that sum to 1"):
        compiled(images, labels=2 * labels)


class Operators(TorchDispatchMode):
    """Keeps the names of the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.add(operator.name())
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI])
def test_a_gpu_checks_labels_without_being_waited_for(problem_type):
    """On tensors that have no values, of a GPU that need not be there: asking for a value raises."""
    with FakeTensorMode(), torch.no_grad(), Operators() as operators:
        logits, labels = (torch.empty(4, 3, device="cuda") for _ in range(2))
        loss = image_classification_loss(logits, labels, problem_type)
    assert loss.device.type == "cuda"
    assert "aten::_assert_async.msg" in operators.names and "aten::_local_scalar_dense" not in operators.names


def test_what_names_classes_of_an_image_refuses_networks_that_do_not(tiny_config, tmp_path):
    tiny_config.problem_type = REGRESSION
    SlimResNetForImageClassification(tiny_config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"MODEL .* problem_type is {REGRESSION}"):
        load_model(tmp_path)


def test_probabilities_of_a_pipeline_follow_the_problem_type(tiny_config):
    """Several classes at once are scored one by one, so their scores do not sum to 1."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    tiny_config.problem_type = MULTI
    model = SlimResNetForImageClassification(tiny_config).eval()
    answers = pipeline("image-classification", model=model, image_processor=processor, top_k=10)(image)
    logits = model(**processor(image, return_tensors="pt")).logits[0]
    assert {answer["label"]: answer["score"] for answer in answers} == pytest.approx(
        dict(zip(model.config.id2label.values(), logits.sigmoid().tolist(), strict=True))
    )
