"""transformers' `Trainer` on this project's network, as a user would set it up: the other contender."""

import multiprocessing
import tempfile
from multiprocessing.connection import Connection

import torch
from datasets import load_dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks import report_loop
from modeling_slimresnet import SlimResNetConfig, SlimResNetForImageClassification

MAX_STEPS = 10**6


class TrainerLoop:
    """
    `Trainer.train()`, halted between two steps; a call lets it take one more.

    Of its loop nothing is left out: a step with its clipping and its schedule, the callbacks, and the wait for the
    next batch, which two workers augment image by image while the step goes on. The optimiser is that of all
    contenders. Logs and saves are off. It has a process of its own, as accelerate has one precision for each process.
    """

    def __init__(self, dataset_name: str, batch_size: int, *, bf16: bool = False):
        context = multiprocessing.get_context("spawn")
        self._turns, turns = context.Pipe()
        self._process = context.Process(target=_train, args=(turns, dataset_name, batch_size, bf16))
        self._process.start()
        turns.close()
        self._batch_size = batch_size
        self._turns.recv()  # imports are done, and the first batch is there

    def __call__(self) -> int:
        self._turns.send(True)
        self._turns.recv()
        return self._batch_size

    def close(self) -> None:
        """Ends the process."""
        self._turns.send(False)
        self._process.join()


class _Turns(TrainerCallback):
    """Before each step: says that the one before is done and its batch there, and waits for the next turn."""

    def __init__(self, turns: Connection):
        self._turns = turns

    def on_step_begin(self, args, state, control, **_):
        self._turns.send(None)
        control.should_training_stop = not self._turns.recv()


def _train(turns: Connection, dataset_name: str, batch_size: int, bf16: bool) -> None:
    multiprocessing.set_start_method(None, force=True)  # workers start as in a program of its own
    torch.manual_seed(0)
    model = SlimResNetForImageClassification(SlimResNetConfig())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=MAX_STEPS, per_device_train_batch_size=batch_size,
            bf16=bf16, use_cpu=True, remove_unused_columns=False, dataloader_num_workers=2, dataloader_drop_last=True,
            dataloader_persistent_workers=True, dataloader_pin_memory=False, report_to="none", save_strategy="no",
            logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        Trainer(
            model, arguments, train_dataset=report_loop.transformed(load_dataset(dataset_name, split="train")),
            data_collator=_collate, optimizers=(optimizer, None), callbacks=[_Turns(turns)],
        ).train()  # fmt: skip


def _collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    images, labels = report_loop.cutmix(*report_loop.collate(rows))
    return {"pixel_values": images, "labels": labels}
