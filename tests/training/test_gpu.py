"""What only a GPU can show of training: graphs, compiled and fused steps, and inputs made ahead."""

import shutil

import numpy as np
import pytest
import torch
from conftest import SAMPLE, run_python, tiny_run_flags
from training_runs import Told, assert_same_weights, read, train, weights

import slimresnet.data.inputs
from modeling_slimresnet import SlimResNetConfig
from slimresnet.data.feed import training_inputs
from slimresnet.data.inputs import TrainingInputs, grouped
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


def run(config_dir, output_dir, *more, device="cuda", callbacks=()):
    flags = tiny_run_flags(config_dir, output_dir)
    if device == "cuda":
        flags.remove("--use_cpu")
    return train(flags, *SETTINGS, *more, callbacks=callbacks)


@pytest.fixture(scope="module")
def on_cpu(tmp_path_factory, smooth_config_dir):
    return run(smooth_config_dir, tmp_path_factory.mktemp("cpu") / "run", device="cpu")


@pytest.mark.parametrize("compiled", ["false", "true"])
@pytest.mark.parametrize("graphs", ["false", "true"])
def test_a_run_on_the_gpu_is_the_run_on_the_cpu(on_cpu, smooth_config_dir, tmp_path, capsys, compiled, graphs):
    folder = run(smooth_config_dir, tmp_path / "run", f"--torch_compile={compiled}", f"--cuda_graphs={graphs}")
    assert f"cuda_graphs {graphs.capitalize()}" in capsys.readouterr().out
    histories = (read(each, "trainer_state.json")["log_history"] for each in (folder, on_cpu))
    for entry, expected in zip(*histories, strict=True):
        assert entry["loss"] == pytest.approx(expected["loss"], rel=1e-3)
        assert entry["eval_loss"] == pytest.approx(expected["eval_loss"], rel=2e-3)
        assert 0 <= entry["data_time"] <= 1
    for name, value in weights(folder).items():
        torch.testing.assert_close(value, weights(on_cpu)[name], rtol=2e-2, atol=2e-3, msg=name)
    assert read(folder)["test_loss"] == pytest.approx(read(on_cpu)["test_loss"], rel=2e-3)


@pytest.mark.parametrize("compiled", ["false", "true"])
def test_a_teacher_is_asked_within_the_graph(smooth_config_dir, tmp_path, capsys, compiled):
    """Its images are enlarged, and its classes put in order; labels have a half."""
    teacher = run(smooth_config_dir, tmp_path / "teacher", "--image_mean", "0.5", "0.4", "0.3", device="cpu")
    config = SlimResNetConfig.from_pretrained(teacher)
    config.id2label = dict(enumerate(reversed(list(config.id2label.values()))))
    config.save_pretrained(teacher)
    processor = (teacher / "preprocessor_config.json").read_text()
    (teacher / "preprocessor_config.json").write_text(processor.replace("32", "40"))
    flags = [f"--teacher_name_or_path={teacher}", "--distillation_alpha=0.5"]
    expected = run(smooth_config_dir, tmp_path / "cpu", *flags, device="cpu")
    folder = run(smooth_config_dir, tmp_path / "run", *flags, f"--torch_compile={compiled}")
    assert "cuda_graphs True" in capsys.readouterr().out
    histories = (read(each, "trainer_state.json")["log_history"] for each in (folder, expected))
    for entry, on_cpu in zip(*histories, strict=True):
        assert entry["loss"] == pytest.approx(on_cpu["loss"], rel=2e-3)
        assert entry["eval_loss"] == pytest.approx(on_cpu["eval_loss"], rel=4e-3)


def test_graphs_and_bf16_choose_themselves(tiny_config_dir, tmp_path, capsys):
    run(tiny_config_dir, tmp_path / "run", "--mixed_precision=auto")
    output = capsys.readouterr().out
    assert "precision bf16" in output and "cuda_graphs True (one GPU)" in output


def test_a_run_goes_on_to_the_same_weights(tiny_config_dir, tmp_path):
    """In processes of their own: cuBLAS has to be told to be deterministic before its first use."""

    def run_apart(output_dir, *more):
        flags = [flag for flag in tiny_run_flags(tiny_config_dir, output_dir) if flag != "--use_cpu"]
        settings = ["--deterministic", "--mixed_precision=auto", "--save_total_limit=10"]
        process = run_python("train.py", *flags, *SETTINGS, *settings, *more)
        assert process.returncode == 0, process.stdout + process.stderr
        return output_dir, process.stdout

    whole, _ = run_apart(tmp_path / "whole")
    shutil.copytree(whole / "checkpoint-7", tmp_path / "part" / "checkpoint-7")
    part, output = run_apart(tmp_path / "part", "--resume_from_checkpoint=last")
    assert "at step 7 of 21" in output
    assert_same_weights(part, whole)


FORMS = {
    "eager": ["--cuda_graphs=false"],
    "graphs": [],
    "compiled": ["--torch_compile=true"],
    "fused": ["--fused_batchnorm=true", "--cuda_graphs=false"],
    "fused graphs": ["--fused_batchnorm=true"],
}


@pytest.fixture(scope="module")
def curves(tmp_path_factory):
    """Of the default network in bf16, by form of the step: losses, and bytes in use on the GPU, a step each."""

    def curve(form):
        losses, memory = [], []
        told = Told(
            on_log=lambda state, logs, **_: losses.append(logs["loss"]),
            on_step_end=lambda state, **_: memory.append(torch.cuda.memory_allocated()),
        )
        train(
            [
                f"--dataset_name={SAMPLE}", f"--output_dir={tmp_path_factory.mktemp('form') / 'run'}",
                "--validation_size=100", "--max_eval_samples=90", "--total_train_batch_size=64", "--streaming=false",
                "--max_train_samples=512",
                "--learning_rate=0.01", "--max_train_steps=40", "--logging_steps=1", "--mixed_precision=bf16",
                "--checkpointing_steps=no", *FORMS[form],
            ],
            callbacks=[told],
        )  # fmt: skip
        return np.array(losses), memory

    return {form: curve(form) for form in FORMS}


@pytest.mark.parametrize("form", list(FORMS)[1:])
def test_the_loss_curve_is_that_of_the_eager_step(curves, form):
    """Means over ten steps: rounding in bf16 moves single losses."""
    losses, expected = (curves[each][0].reshape(4, 10).mean(axis=1) for each in (form, "eager"))
    assert losses == pytest.approx(expected, rel=0.03)
    assert expected[0] > 1.05 * expected[-1]


@pytest.mark.parametrize("form", FORMS)
def test_steps_leave_no_memory_behind(curves, form):
    """An epoch, which is a group of inputs, has 8 steps; there are two groups at most, in the middle of each epoch."""
    memory = curves[form][1]
    assert max(memory[26:32]) <= 1.002 * max(memory[10:20])


def test_inputs_that_are_made_ahead_are_the_same_and_nothing_is_waited_for(monkeypatch):
    """The side stream is held up before each group: whoever did not wait for a group would read something else."""
    monkeypatch.setattr(slimresnet.data.inputs, "batches_at_once", lambda pixels: 3)
    gpu, recipe = torch.device("cuda"), Recipe(
        crop_padding=4, crop_padding_mode="reflect", trivial_augment=True, gaussian_blur_prob=0.3,
        random_erasing_prob=0.5, cutmix_prob=0.4, mixup_prob=0.4, label_smoothing_factor=0.1,
        progressive_resizing=["24:0.5"], augmented_copies=2,
    )  # fmt: skip
    loader = TrainingLoader(
        open_split(str(SAMPLE), "test", image_size=32, resident_on=gpu), np.arange(500), Loading(gpu),
        seed=3, batch_size=32, accumulation=1, shuffle_buffer_size=500, copies=recipe.augmented_copies,
    )  # fmt: skip
    make_inputs, together = TrainingInputs(recipe, SlimResNetConfig(), num_epochs=2), TrainingInputs.together
    expected = [
        values for epoch in range(2) for group in grouped(loader.epoch(epoch)) for values in make_inputs.together(group)
    ]

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


@pytest.mark.parametrize(("graphs", "compiled"), [("false", "false"), ("true", "false"), ("true", "true")])
def test_labels_that_are_no_distributions_end_the_program(compiled, graphs):
    """Asserted on the GPU itself, which a replay reaches too."""
    process = run_python("-c", BAD_LABELS, graphs, compiled)
    assert process.stdout == "six steps\n" and process.returncode != 0, process.stdout + process.stderr
    assert "assert" in process.stderr


AVERAGED = """
import sys, torch
from slimresnet.recipe.launch import leave_group
from slimresnet.training.averaging import average_gradients
from slimresnet.training.cuda_graphs import GraphedStep

def train(is_graphed):
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 8, 3).cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(inputs, sharpness_aware):
        loss = model(inputs["pixel_values"]).square().mean()
        loss.backward()
        average_gradients(model.parameters())
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach().clone()

    take = GraphedStep(step, optimizer) if is_graphed else step
    generator = torch.Generator().manual_seed(1)
    for _ in range(8):
        take({"pixel_values": torch.randn(4, 3, 8, 8, generator=generator).cuda()}, False)
    return [parameter.detach().clone() for parameter in model.parameters()]

torch.cuda.set_device(0)
torch.distributed.init_process_group("nccl", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
for value, expected in zip(train(True), train(False), strict=True):
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
leave_group()
print("left")
"""


def test_sums_over_processes_are_captured_and_their_group_is_left(tmp_path):
    """With one process, which is all that NCCL allows on one GPU."""
    process = run_python("-c", AVERAGED, tmp_path / "group")
    assert process.stdout == "left\n" and process.returncode == 0, process.stdout + process.stderr


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="it needs two GPUs")
@pytest.mark.parametrize("batchnorm", [[], ["--sync_batchnorm"]], ids=["local", "synchronised"])
def test_captured_steps_of_two_gpus_are_the_steps(smooth_config_dir, tmp_path, batchnorm):
    histories = []
    for graphs in ("false", "true"):
        flags = tiny_run_flags(smooth_config_dir, tmp_path / graphs)
        flags.remove("--use_cpu")
        launch = [
            "-m",
            "accelerate.commands.launch",
            "--multi_gpu",
            "--num_machines=1",
            "--num_processes=2",
            "train.py",
        ]
        process = run_python(*launch, *flags, *SETTINGS, *batchnorm, f"--cuda_graphs={graphs}")
        assert process.returncode == 0, process.stdout + process.stderr
        histories.append(read(tmp_path / graphs, "trainer_state.json")["log_history"])
    for expected, entry in zip(*histories, strict=True):
        assert entry["loss"] == pytest.approx(expected["loss"], rel=1e-3)
        assert entry["eval_loss"] == pytest.approx(expected["eval_loss"], rel=2e-3)
