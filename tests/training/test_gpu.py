"""What only a GPU can show: graphs and compiled steps as it takes them. Elsewhere each test says that it needs one."""

import shutil

import numpy as np
import pytest
import torch
from conftest import SAMPLE, run_python, tiny_run_flags
from training_runs import assert_same_weights, read, weights

import slimresnet.data.inputs
from modeling_slimresnet import SlimResNetConfig
from slimresnet.data.feed import training_inputs
from slimresnet.data.inputs import TrainingInputs
from slimresnet.data.loader import Loading, TrainingLoader
from slimresnet.data.sources.dataset import open_split
from slimresnet.recipe.settings import Recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.processes,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="it needs a GPU"),
]
# The last epoch is sharpness-aware, the first of smaller images; rates at which rounding does not grow.
SETTINGS = [
    "--optim=muon", "--muon_learning_rate=0.005", "--learning_rate=0.01", "--progressive_resizing", "16:0.3",
    "--sam_rho=0.05", "--num_final_sam_epochs=1",
]  # fmt: skip


def run(config_dir, output_dir, *more, device="cuda"):
    """train.py in a process of its own, since it sets what holds for a whole process."""
    flags = tiny_run_flags(config_dir, output_dir)
    if device == "cuda":
        flags.remove("--use_cpu")
    process = run_python("train.py", *flags, *SETTINGS, *more)
    assert process.returncode == 0, process.stdout + process.stderr
    return output_dir, process.stdout


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory, smooth_config_dir):
    return run(smooth_config_dir, tmp_path_factory.mktemp("cpu") / "run", device="cpu")[0]


@pytest.mark.parametrize("compiled", ["false", "true"])
@pytest.mark.parametrize("graphs", ["false", "true"])
def test_a_run_on_the_gpu_is_the_run_on_the_cpu(on_cpu, smooth_config_dir, tmp_path, compiled, graphs):
    folder, output = run(smooth_config_dir, tmp_path / "run", f"--torch_compile={compiled}", f"--cuda_graphs={graphs}")
    assert f"cuda_graphs {graphs.capitalize()}" in output
    histories = (read(each, "trainer_state.json")["log_history"] for each in (folder, on_cpu))
    for entry, expected in zip(*histories, strict=True):
        assert entry["loss"] == pytest.approx(expected["loss"], rel=1e-3)
        assert entry["eval_loss"] == pytest.approx(expected["eval_loss"], rel=2e-3)
        assert 0 <= entry["data_time"] <= 1
    for name, value in weights(folder).items():
        torch.testing.assert_close(value, weights(on_cpu)[name], rtol=2e-2, atol=2e-3, msg=name)
    assert read(folder)["test_loss"] == pytest.approx(read(on_cpu)["test_loss"], rel=2e-3)


def test_graphs_and_bf16_choose_themselves(tiny_config_dir, tmp_path):
    _, output = run(tiny_config_dir, tmp_path / "run", "--mixed_precision=auto")
    assert "precision bf16" in output and "cuda_graphs True (one GPU)" in output


def test_a_run_goes_on_to_the_same_weights(tiny_config_dir, tmp_path):
    settings = ["--deterministic", "--mixed_precision=auto", "--save_total_limit=10"]
    whole, _ = run(tiny_config_dir, tmp_path / "whole", *settings)
    shutil.copytree(whole / "checkpoint-7", tmp_path / "part" / "checkpoint-7")
    part, output = run(tiny_config_dir, tmp_path / "part", *settings, "--resume_from_checkpoint=last")
    assert "at step 7 of 21" in output
    assert_same_weights(part, whole)


def test_inputs_that_are_made_ahead_are_the_same_and_nothing_is_waited_for(monkeypatch):
    """The side stream is held up before each group: whoever did not wait for a group would read something else."""
    monkeypatch.setattr(slimresnet.data.inputs, "batches_at_once", lambda pixels: 3)
    gpu, recipe = torch.device("cuda"), Recipe(
        crop_padding=4, crop_padding_mode="reflect", trivial_augment=True, gaussian_blur_prob=0.3,
        random_erasing_prob=0.5, cutmix_prob=0.5, label_smoothing_factor=0.1, progressive_resizing=["24:0.5"],
    )  # fmt: skip
    loader = TrainingLoader(
        open_split(str(SAMPLE), "test", image_size=32, resident_on=gpu), np.arange(500), Loading(gpu),
        seed=3, batch_size=32, accumulation=1, shuffle_buffer_size=500,
    )  # fmt: skip
    make_inputs, together = TrainingInputs(recipe, SlimResNetConfig(), num_epochs=2), TrainingInputs.together
    expected = [values for epoch in range(2) for values in make_inputs.of(loader.epoch(epoch))]

    def held_up(inputs, group):
        torch.cuda._sleep(20_000_000)  # cycles, some ten milliseconds
        return together(inputs, group)

    monkeypatch.setattr(TrainingInputs, "together", held_up)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        inputs = [
            {name: value.clone() for name, value in values.items()}
            for values in training_inputs(loader, make_inputs, 0, 2 * loader.steps_per_epoch)
        ]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for values, others in zip(inputs, expected, strict=True):
        assert all(torch.equal(value, others[name]) for name, value in values.items())


BAD_LABELS = """
import sys, torch
from accelerate import Accelerator
from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.training.optim.optimizer import build_optimizer
from slimresnet.recipe.settings import Recipe
from slimresnet.recipe.plan import batch_sizes, make_plan
from slimresnet.training.step import build_train_step
config = SlimResNetConfig(
    hidden_sizes=[16, 32], depths=[1, 1], strides=[1, 2], problem_type="single_label_classification"
)
recipe = Recipe(cuda_graphs=sys.argv[1] == "true", torch_compile=sys.argv[2] == "true", mixed_precision="no")
model = SlimResNetForImageClassification(config).cuda().train()
accelerator = Accelerator()
prepared, optimizer = accelerator.prepare(model, build_optimizer(model, recipe))
plan = make_plan(recipe, accelerator, "", config, batch_sizes(recipe, 1), steps_per_epoch=1)
step = build_train_step(plan, accelerator, model, prepared, optimizer)
inputs = {"pixel_values": torch.randn(4, 3, 16, 16).cuda(), "labels": torch.full((4, 10), 0.1).cuda()}
for _ in range(6):
    step(inputs, False)
torch.cuda.synchronize()
print("six steps", flush=True)
step(inputs | {"labels": inputs["labels"] * 2}, False)
torch.cuda.synchronize()
print("a seventh step", flush=True)
"""


@pytest.mark.parametrize("compiled", ["false", "true"])
@pytest.mark.parametrize("graphs", ["false", "true"])
def test_labels_that_are_no_distributions_end_the_program(compiled, graphs):
    """Asserted on the GPU itself, which a replay reaches too."""
    process = run_python("-c", BAD_LABELS, graphs, compiled)
    assert process.stdout == "six steps\n" and process.returncode != 0, process.stdout + process.stderr
    assert "assert" in process.stderr
