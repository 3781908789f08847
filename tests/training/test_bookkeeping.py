"""What a run logs, and when it reads it: at once on a CPU; on a GPU without letting its queue run empty."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_run_flags
from stand_in_gpu import LAUNCH, StandInGpu
from training_runs import Told, assert_same_weights, read, snapshot, spoils_at, train

import slimresnet.data.inputs
from slimresnet.recipe.settings import Recipe
from slimresnet.run_folder.checkpoints import list_checkpoints
from slimresnet.training import bookkeeping
from slimresnet.training.bookkeeping import DivergedError, Meter
from slimresnet.training.clocks import CudaClock
from slimresnet.training.state.progress import Progress

STEP, IMAGES = 0.004, 256  # seconds and images of a step


class Training:
    """Steps on a stand-in for a GPU, whose host's clock is the only one there is."""

    def __init__(self, monkeypatch, num_processes=1):
        self.gpu = StandInGpu().install(monkeypatch)
        monkeypatch.setattr(bookkeeping, "time", SimpleNamespace(perf_counter=lambda: self.gpu.host))
        accelerator = SimpleNamespace(
            device=torch.device("cuda"), num_processes=num_processes, reduce=lambda values, reduction: values
        )
        self.progress = Progress(steps_per_epoch=100, max_steps=100)
        self.meter = Meter(Recipe(), accelerator, self.progress, IMAGES)
        self.side = torch.cuda.Stream()

    def step(self, drawing=0.0, making=0.0, loss=0.5):
        """The host draws for so many seconds, then the side stream makes inputs for so many."""
        with self.meter.waiting():
            self.gpu.host += drawing
            if making:
                with torch.cuda.stream(self.side):
                    self.gpu.launch(making)
                self.gpu.main.wait_event(self.side.record_event())
        self.gpu.launch(STEP)
        self.meter.took(torch.tensor(loss))
        self.progress.global_step += 1

    @property
    def queued(self):
        """Seconds of work that the GPU has left."""
        return self.gpu.main.end - self.gpu.host


@pytest.fixture
def training(monkeypatch):
    return Training(monkeypatch)


@pytest.mark.parametrize(
    ("drawing", "making", "stands_still"),
    [
        (0.0, 0.0, 0.0),
        (0.010, 0.0, 0.0),  # five steps of work are in the queue
        (0.027, 0.0, 0.007),
        (0.010, 0.006, 0.0),
        (0.010, 0.025, 0.015),  # inputs that are launched in time, and made too late
    ],
)
def test_data_time_is_the_time_that_the_gpu_stands_still(training, drawing, making, stands_still):
    for _ in range(5):
        training.step()
    training.step(drawing, making)
    for _ in range(4):
        training.step()
    assert list(training.meter.look(waits=True))
    seconds = training.gpu.host
    assert seconds == pytest.approx(10 * STEP + stands_still, abs=1e-3)
    assert training.meter.summary()["data_time"] == pytest.approx(stands_still / seconds, abs=20 * LAUNCH / seconds)


def test_the_first_inputs_of_a_run_are_waited_for(training):
    training.step(drawing=0.1)
    list(training.meter.look(waits=True))
    assert training.meter.summary()["data_time"] == pytest.approx(0.1 / (0.1 + STEP), rel=1e-2)


def test_on_a_gpu_a_look_is_read_at_the_next_one_while_steps_are_queued(training):
    logged = []
    for step in range(1, 36):
        training.step(loss=step / 8)
        if step % 10 == 0 or step == 35:
            for seen in training.meter.look(waits=step == 35):
                assert training.gpu.host >= seen[0] * STEP  # what is read is there
                logged.append((step, *seen))
            if 10 < step < 35:
                assert training.queued > 9 * STEP
    assert [(at, step, seen["loss"]) for at, step, seen in logged] == [
        (20, 10, 10 / 8),
        (30, 20, 20 / 8),
        (35, 30, 30 / 8),
        (35, 35, 35 / 8),
    ]
    assert training.queued <= 0
    for _, _, seen in logged:
        assert seen["train_samples_per_second"] == pytest.approx(IMAGES / STEP, rel=0.01)
    assert training.progress.epoch_loss_sum == sum(step / 8 for step in range(1, 36))
    assert training.progress.train_runtime == pytest.approx(35 * STEP, rel=0.01)


def test_several_processes_read_each_look_at_once(monkeypatch):
    training = Training(monkeypatch, num_processes=2)
    training.step()
    assert [step for step, _ in training.meter.look(waits=False)] == [1]


def test_a_checkpoint_is_no_time_of_training_and_other_looks_are_no_pause(training):
    for waits, pause in ((False, 0.001), (True, 5.0), (False, 0.001), (True, 0.0)):
        for _ in range(10):
            training.step()
        list(training.meter.look(waits=waits))
        training.gpu.host += pause
        training.meter.go_on()
    assert training.progress.train_runtime == pytest.approx(40 * STEP, rel=0.01)


def test_the_first_loss_that_is_no_number_is_named_though_it_is_read_late(training):
    for step in range(1, 11):
        training.step(loss=torch.nan if step in (7, 9) else 0.5)
    assert not list(training.meter.look(waits=False))
    training.step()
    with pytest.raises(DivergedError, match="the loss of step 7 is nan"):
        list(training.meter.look(waits=False))


# --- whole runs, whose inputs are made ahead and whose looks are read late -----------------------------------------


def run_ahead(monkeypatch, flags, *more, callbacks=()):
    """A run of the CPU that goes as one on a GPU would."""
    with monkeypatch.context() as patch:
        patch.setattr(slimresnet.data.inputs, "batches_at_once", lambda pixels: 3)
        patch.setattr(bookkeeping, "clock_of", lambda device: CudaClock())
        StandInGpu().install(patch)
        return train(flags, *more, callbacks=callbacks)


def told(logged):
    """A callback that appends step, epoch and loss of each log."""
    return Told(on_log=lambda state, logs, **_: logged.append((state.global_step, state.epoch, logs["loss"])))


def losses(folder):
    """Of each epoch."""
    return [entry["loss"] for entry in read(folder, "trainer_state.json")["log_history"]]


MORE = ["--logging_steps=2", "--max_train_steps=18", "--progressive_resizing", "16:0.4"]


@pytest.mark.slow
def test_a_run_ahead_ends_in_the_same_weights_and_logs_the_same_of_each_step(
    flags, tiny_config_dir, tmp_path, monkeypatch
):
    """Resumed in the middle of an epoch as well; the checkpoint of step 4 has the losses up to there."""
    logged, expected = [], []
    whole = train(tiny_run_flags(tiny_config_dir, tmp_path / "whole"), *MORE, callbacks=[told(expected)])
    more = [*MORE, "--checkpointing_steps=4", "--save_total_limit=9"]
    ahead = run_ahead(monkeypatch, flags, *more, callbacks=[told(logged)])
    assert logged == expected and [step for step, *_ in logged] == [2, 4, 6, 7, 8, 10, 12, 14, 16, 18]
    resumed = tmp_path / "resumed"
    shutil.copytree(ahead / "checkpoint-4", resumed / "checkpoint-4")
    run_ahead(monkeypatch, flags, *more, f"--output_dir={resumed}", "--resume_from_checkpoint=last")
    for folder in (ahead, resumed):
        assert_same_weights(folder, whole)
        assert losses(folder) == losses(whole)


def test_a_run_ahead_that_diverges_keeps_the_checkpoints_before(flags, trained, tmp_path, monkeypatch):
    """Two looks are still to be read when the checkpoint of step 18 is due."""
    folder = tmp_path / "run"
    shutil.copytree(trained / "checkpoint-14", folder / "checkpoint-14")
    before = snapshot(folder)

    with pytest.raises(DivergedError, match="the loss of step 16 is nan"):
        run_ahead(
            monkeypatch, flags, "--resume_from_checkpoint=last", "--logging_steps=17", "--checkpointing_steps=18",
            callbacks=[spoils_at(15, "on_step_begin")],
        )  # fmt: skip
    assert snapshot(folder) == before


def test_a_callback_stops_a_run_ahead_at_the_end_of_its_epoch(flags, monkeypatch):
    class Stop(Told):
        def on_epoch_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step == 14

    folder = run_ahead(monkeypatch, flags, callbacks=[Stop()])
    assert [checkpoint.name for checkpoint in list_checkpoints(folder)] == ["checkpoint-7", "checkpoint-14"]
