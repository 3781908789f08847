"""What makes training fast changes nothing else: precision, layout and resolution, and how they are chosen."""

import dataclasses
import platform
import re
import resource
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SAMPLE
from PIL import Image
from torch import nn
from training_runs import SECONDS, read, start, train

from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification
from slimresnet.data.inputs import TrainingInputs, resolution
from slimresnet.data.loader import TrainingBatch
from slimresnet.data.randomness import Draws
from slimresnet.data.sources.dataset import open_split
from slimresnet.data.transforms.normalize import normalize
from slimresnet.data.transforms.resize import resize
from slimresnet.evaluation.flops import multiply_adds
from slimresnet.recipe import hardware
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.hardware import (
    choose_channels_last,
    choose_eval_batch_size,
    choose_fused_batchnorm,
    choose_mixed_precision,
    choose_torch_compile,
    keep_freed_memory,
)
from slimresnet.recipe.settings import Recipe
from slimresnet.training.flops import total_flos
from slimresnet.training.state.progress import Progress


def test_twenty_steps_in_bf16_and_channels_last_follow_float32():
    """On real images, in all widths: the loss stays within 5 % of float32's; a mean over 5 steps differs by 0.3 %."""
    # Few and of 16 pixels: where the processor has no bf16, a step in it takes ten times as long.
    split = open_split(str(SAMPLE), "train", image_size=32, resident_on=torch.device("cpu"))
    losses = {}
    for fast in (False, True):
        torch.manual_seed(0)
        model = SlimResNetForImageClassification(SlimResNetConfig(depths=[1, 1, 1, 1]))
        if fast:
            model = model.to(memory_format=torch.channels_last)
        # At ten times this rate the curve is chaotic, and the number of threads alone moves it by several per cent.
        optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
        curve = []
        for step in range(20):
            rows = np.arange(8 * step, 8 * step + 8)
            (pixels,) = split.images.read([rows])
            pixel_values = normalize(resize(pixels, 16), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                loss = model(pixel_values, labels=torch.from_numpy(split.labels[rows])).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            curve.append(loss.item())
        losses[fast] = np.array(curve).reshape(4, 5).mean(axis=1)
        assert {value.dtype for value in model.state_dict().values()} == {torch.float32, torch.int64}
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_var.dtype == torch.float32 and module.running_var.isfinite().all()
    assert losses[True] == pytest.approx(losses[False], rel=0.05)


def count_page_faults():
    """Of a step that allocates, before and after the memory of freed tensors is kept."""

    def step():
        return len([torch.ones(2**24) for _ in range(2)])  # 64 MiB each, 16,384 pages

    def faults():
        for _ in range(8):  # until the heap has room wherever the blocks happen to lie
            step()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        step()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    returned = faults()
    keep_freed_memory()
    print(returned, faults())


@pytest.mark.processes
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has mallopt")
def test_the_memory_of_a_step_serves_the_next_one(tmp_path):
    process = start(count_page_faults, [], tmp_path / "log")
    process.join(SECONDS)
    returned, kept = map(int, (tmp_path / "log").read_text().split())
    assert kept < 100 < 16384 < returned


def test_resize_is_pillows():
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    for size in (16, 24, 28):
        resized = resize(pixels, size)
        assert resized.dtype == torch.uint8 and resized.shape == (4, 3, size, size)
        for image, result in zip(pixels, resized, strict=True):
            pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((size, size), Image.Resampling.BILINEAR)
            difference = np.asarray(pillow).astype(int) - result.permute(1, 2, 0).numpy()
            assert np.abs(difference).max() <= 1  # Pillow rounds after each direction
    assert resize(pixels, 32) is pixels


def test_resolution_is_a_function_of_the_epoch():
    stages = [(16, 0.3), (24, 0.75)]
    assert [resolution(stages, epoch, 10, 32) for epoch in range(10)] == [16] * 3 + [24] * 5 + [32] * 2
    assert [resolution([], epoch, 3, 32) for epoch in range(3)] == [32] * 3
    assert resolution([(24, 1.0)], 9, 10, 32) == 24


def test_inputs_have_the_resolution_of_their_epoch(tiny_config):
    recipe = Recipe(progressive_resizing=["8:0.5"], cutmix_prob=0.5)
    make_inputs = TrainingInputs(recipe, tiny_config, num_epochs=4)
    pixels, labels = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8), torch.arange(6)
    for epoch, size in ((0, 8), (1, 8), (2, 16), (3, 16)):
        inputs = make_inputs(TrainingBatch(pixels, labels, Draws(0, epoch, 0, np.arange(6))))
        assert inputs["pixel_values"].shape == (6, 3, size, size)
        assert torch.equal(inputs["labels"].sum(dim=1), torch.ones(6))
    with pytest.raises(RecipeError, match="--progressive_resizing"):
        TrainingInputs(dataclasses.replace(recipe, progressive_resizing=["20:0.5"]), tiny_config, num_epochs=4)
    with pytest.raises(RecipeError, match="--crop_padding 16"):
        TrainingInputs(Recipe(crop_padding=16, crop_padding_mode="reflect"), tiny_config, num_epochs=4)


def test_arithmetic_of_a_run_counts_each_image_at_its_size():
    config = SlimResNetConfig()
    assert multiply_adds(config, 32) == 271_419_904
    recipe, progress = Recipe(progressive_resizing=["16:0.5"]), Progress(steps_per_epoch=3, max_steps=10)
    progress.global_step = 10
    # 4 epochs of 3 steps, the last cut to 1: two epochs at 16 pixels, then 4 steps at 32
    expected = 6 * 10 * (6 * multiply_adds(config, 16) + 4 * multiply_adds(config, 32))
    assert total_flos(recipe, config, progress, 10) == expected
    # The head apart, the work is in proportion to the pixels.
    assert multiply_adds(config, 16) == pytest.approx(multiply_adds(config, 32) / 4, rel=1e-4)


# Settings that light epochs are without.
FULL = {
    "trivial_augment": True, "vertical_flip_prob": 1.0, "gaussian_blur_prob": 1.0, "random_erasing_prob": 1.0,
    "cutmix_prob": 1.0, "mixup_prob": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("name", FULL)
def test_full_augmentation_lies_between_the_light_epochs(tiny_config, name):
    """A light epoch is, bit for bit, one of a recipe that has crop, flip and smoothing alone."""
    light = Recipe(label_smoothing_factor=0.1)
    recipe = dataclasses.replace(
        light, **{name: FULL[name]}, num_light_augmentation_epochs=1, num_final_light_augmentation_epochs=2
    )
    make_inputs, make_light_inputs = (TrainingInputs(each, tiny_config, num_epochs=5) for each in (recipe, light))
    pixels, labels = torch.randint(0, 256, (32, 3, 16, 16), dtype=torch.uint8), torch.arange(32) % 10
    same = []
    for epoch in range(5):
        batch = TrainingBatch(pixels, labels, Draws(0, epoch, 0, np.arange(32)))
        inputs, light_inputs = make_inputs(batch), make_light_inputs(batch)
        same.append(all(torch.equal(value, light_inputs[key]) for key, value in inputs.items()))
    assert same == [True, False, False, True, True]
    assert make_inputs.last_full_epoch == 2  # the pictures of training images are taken from it
    never = dataclasses.replace(recipe, num_light_augmentation_epochs=3)
    assert TrainingInputs(never, tiny_config, num_epochs=5).last_full_epoch == 4


def test_precision_chooses_itself(monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    for capabilities, expected in (
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"arm_bf16": True}, "bf16"),
        ({"avx2": True}, "no"),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert choose_mixed_precision("auto", "cpu").value == expected
    assert choose_mixed_precision("auto", "mps").value == "no"
    for found in (True, False):  # a GPU that emulates it has it not
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, found=found: found or including_emulation
        )
        assert choose_mixed_precision("auto", "cuda").value == ("bf16" if found else "no")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert choose_mixed_precision("auto", "cpu") == ("bf16", "as launched")
    assert choose_mixed_precision("no", "cpu") == ("no", "as asked")


def test_compiling_chooses_itself(monkeypatch):
    def choose(device_type, num_images, num_processes=1, **settings):
        accelerator = SimpleNamespace(device=torch.device(device_type), num_processes=num_processes)
        return choose_torch_compile(Recipe(**settings), accelerator, num_images)

    monkeypatch.setattr(hardware.shutil, "which", lambda name: "/usr/bin/c++")
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: "found")
    headers = Path(sysconfig.get_path("include"), "Python.h")
    monkeypatch.setattr(hardware.Path, "exists", lambda path: path == headers)
    assert choose("cpu", 10_000).value is False
    assert choose("cpu", 5_000_000).value is True
    assert choose("cpu", 5_000_000, num_processes=2).value is True
    assert choose("cpu", 5_000_000, progressive_resizing=["16:0.5"]).value is False
    assert choose("cuda", 1_200_000).value is False
    assert choose("cuda", 10_000_000).value is True
    assert choose("cuda", 10_000_000, num_processes=2).value is False
    assert choose("cuda", 10_000_000, fused_batchnorm=True).value is False
    assert choose("mps", 10**9).value is False
    assert choose("mps", 1, torch_compile=True, fused_batchnorm=True) == (True, "as asked")
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: None)
    assert choose("cuda", 10_000_000).value is False
    monkeypatch.setattr(hardware.Path, "exists", lambda path: path != headers)
    assert choose("cpu", 5_000_000).value is False
    monkeypatch.setattr(hardware.Path, "exists", lambda path: True)
    monkeypatch.setattr(hardware.shutil, "which", lambda name: None)
    assert choose("cpu", 5_000_000).value is False


@pytest.mark.parametrize(
    ("changed", "obstacle"),
    [
        ({}, None),
        ({"device": torch.device("cpu")}, "the kernels need a CUDA GPU"),
        ({"triton": None}, "Triton is not installed (pip install triton)"),
        ({"compiler": None}, "Triton needs a C compiler and Python's headers"),
        ({"hidden_act": "gelu"}, "the network's hidden_act is gelu, and relu alone is fused"),
        ({"channels_last": False}, "the kernels need --channels_last"),
        ({"is_compiled": True}, "--torch_compile true fuses by itself"),
        ({"sync_batchnorm": True, "num_processes": 2}, "--sync_batchnorm takes statistics over several GPUs"),
        ({"sync_batchnorm": True}, None),
        ({"num_processes": 2}, None),
    ],
)
def test_fused_batchnorm_is_refused_where_it_cannot_be(monkeypatch, changed, obstacle):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(hardware.shutil, "which", lambda name: changed.get("compiler", "/usr/bin/cc"))
    monkeypatch.setattr(hardware.Path, "exists", lambda path: True)
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: changed.get("triton", "found"))
    accelerator = SimpleNamespace(
        device=changed.get("device", torch.device("cuda")), num_processes=changed.get("num_processes", 1)
    )

    def choose(wanted):
        return choose_fused_batchnorm(
            Recipe(fused_batchnorm=wanted, sync_batchnorm=changed.get("sync_batchnorm", False)),
            accelerator,
            SlimResNetConfig(hidden_act=changed.get("hidden_act", "relu")),
            channels_last=changed.get("channels_last", True),
            is_compiled=changed.get("is_compiled", False),
        )

    assert choose("auto") == (False, obstacle or "not known to be faster on cuda")
    assert choose(False) == (False, "as asked")
    if obstacle is None:
        assert choose(True) == (True, "as asked")
        return
    message = f"--fused_batchnorm true is not possible: {obstacle}. Leave the flag out, or change that."
    with pytest.raises(RecipeError, match=re.escape(message)):
        choose(True)


def test_layout_chooses_itself():
    config = SlimResNetConfig()
    assert choose_channels_last("auto", "cuda", config).value is True
    assert choose_channels_last("auto", "cpu", config).value is True
    assert choose_channels_last("auto", "mps", config).value is False
    assert choose_channels_last(False, "cpu", config) == (False, "as asked")


def test_a_gpu_scores_the_splits_of_cifar_in_batches_of_one_size():
    assert choose_eval_batch_size(None, "cpu", 32) == choose_eval_batch_size(None, "mps", 32) == 128
    size = choose_eval_batch_size(None, "cuda", 32)
    assert size > 128 and not 5_000 % size and not 10_000 % size
    assert size > choose_eval_batch_size(None, "cuda", 64) > choose_eval_batch_size(None, "cuda", 224) == 128
    assert choose_eval_batch_size(7, "cpu", 32) == choose_eval_batch_size(7, "cuda", 32) == 7


NARROW = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}


def test_a_network_too_narrow_for_channels_last_trains_on_batches_of_seven(flags, tmp_path):
    """oneDNN crashes with it: https://github.com/uxlfoundation/oneDNN/issues/6035."""
    narrow = SlimResNetConfig(**NARROW, strides=[2, 2])
    narrow.save_pretrained(tmp_path / "narrow")
    flags = [*flags, f"--config_name={tmp_path / 'narrow'}", "--total_train_batch_size=7", "--max_train_steps=3"]
    run = read(train(flags) / "checkpoint-3", "run.json")
    assert run["recipe"]["channels_last"] is False
    with pytest.raises(RecipeError, match="--channels_last true crashes PyTorch on a CPU where 8 channels"):
        train(flags, "--channels_last=true", "--overwrite_output_dir")
    assert choose_channels_last(True, "cuda", narrow).value is True
    assert choose_channels_last("auto", "cpu", SlimResNetConfig(**NARROW, strides=[1, 1])).value is True
    for width, wide_enough in ((15, False), (16, True)):
        config = SlimResNetConfig(embedding_size=32, hidden_sizes=[width, 32], depths=[1, 1], strides=[1, 2])
        assert choose_channels_last("auto", "cpu", config).value is wide_enough
