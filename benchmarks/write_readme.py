"""Writes the figures of the JSON files here into README.md, between its marks: python -m benchmarks.write_readme"""

import argparse
import json
import re
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial

import yaml

from benchmarks.distillation import LABELS, THE_TEACHER
from benchmarks.finetuning import ROWS as FINETUNED
from benchmarks.measuring import FOLDER
from modeling_slimresnet import SlimResNetConfig
from slimresnet.data.inputs import resolution
from slimresnet.data.transforms.transform import overlapping_augmentations
from slimresnet.recipe.checks import parse_resizing
from slimresnet.recipe.reading import read_recipe
from slimresnet.recipe.settings import SETTINGS
from slimresnet.run_folder.names import RESULTS_NAME, TRAINER_STATE_NAME
from slimresnet.run_folder.reading import read_json
from slimresnet.training.optim.sam import is_sharpness_aware

README = FOLDER.parent / "README.md"
FILES = ("training_step", "training_step_without_bf16", "input_pipeline", "scaling")
PRETRAINED = FOLDER.parent / "pretrained/slimresnet-cifar10"
# Of each finished run that the README quotes: all_results.json, recipe.yaml and trainer_state.json, as train.py and
# eval.py wrote them.
RUNS = {**{name: FOLDER / "results" / name for name in ("paper", "fast", "best")}, "best_long": PRETRAINED}
BATCH_BY_BATCH = "gpu_step_batch_by_batch"  # what gpu_step.json was before batches were augmented together
TRIED = FOLDER / "results/tried"  # a folder a recipe, in it a folder for each run whose settings were not kept
BY_CLASS = ("ONNX Runtime, int8", "OpenVINO, int8")
LARGEST_LOSS = 0.005  # of a class's images in int8, that goes without saying
FROST = {
    "photographs": "the photographs of frost of CIFAR-10-C's authors",
    "synthetic": "synthetic frost",
    None: "a fractal as frost, which is easier than the published photographs",
}
UNITS = {"bf16": "bf16", "vnni": "VNNI"}  # of a processor, that decide about its speed with rounded numbers


def _read(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"  # empty where it was not measured


def _on(machine: dict) -> str:
    """The machine of figures, for people."""
    bf16 = {True: "bf16, ", False: "no bf16, ", None: ""}[machine.get("bf16")]
    return f"{machine['processor']}, {machine['cores']} cores, {bf16}torch {machine['torch']}"


def kill_resume() -> str:
    """What the kills, full disks and doubled runs came to, and what a checkpoint costs."""
    result = _read("kill_resume")
    faults, cost = result["faults"], result["checkpoint of the default network, with averaged weights"]
    kills, disks = (
        [each for each in result[title].values() if isinstance(each, dict)]
        for title in ("kills in a finished folder", "full disks")
    )
    found = sum((Counter(each["found after it"]) for each in kills + disks), Counter())
    ended = sum(each["came to their end by the same command"] for each in kills + disks)
    said = sum(each["came to its end, or said why not in a sentence"] for each in disks)
    two = result["two runs in a folder"]
    wrong = found.total() - found["old"] - found["new"]
    killed, full = sum(each["kills"] for each in kills), sum(each["full disks"] for each in disks)
    return (
        f"`{result['command']}`: {faults['kills']} kills at random moments, {faults['damaged checkpoints']} damaged "
        f"checkpoints, {faults['runs with the weights of the uninterrupted one']} of {faults['runs']} runs with the "
        f"weights of the uninterrupted one. A checkpoint of the network with averaged weights takes "
        f"{cost['seconds, median']} s and {cost['megabytes']['in all']:.0f} MB.\n\n"
        f"In a finished folder eval.py, export.py and a run that replaces another were killed {killed} times, and "
        f"found the disk full {full} times, at any call or at a size that a file may not pass. Behind it all files "
        f"were the old ones {found['old']} times, all were the new ones {found['new']} times, and something else "
        f"{wrong} times. The full disk was overcome or said in a sentence {said} times; the same command, once more, "
        f"came to its end {ended} of {found.total()} times. {two['times']} times two runs were started in one "
        f"folder: the first had the weights of a run alone {two['the first had the weights of a run alone']} times."
    )


def processes() -> str:
    """One process against two, a row for each kind of BatchNorm."""
    result = _read("processes")
    lines = [
        f"| 1 process against 2, {result['steps']} steps | same samples and draws | mean loss, 1 and 2 "
        "| weights, relative difference |",
        "|---|---|---|---:|",
    ]
    for title, row in result["rows"].items():
        same = "all" if row["the same sample, augmentation and label at every place"] else "not all"
        lines.append(
            f"| {title} | {same} of {row['samples given to the model']:,} | {row['mean loss, 1 process']:.5f}, "
            f"{row['mean loss, 2 processes']:.5f} | {row['weights, relative difference (norms)']:.1e} |"
        )
    return "\n".join([*lines, "", f"`{result['command']}`; float32"])


def speed() -> str:
    """The tables as Markdown, each with its command."""
    lines = []
    for name in FILES:
        result = _read(name)
        machine = result["machine"]
        for title, table in result["tables"].items():
            rows = table["rows"]
            lines += ["", f"| {title} | images/s | ratio |", "|---|---:|---:|"]
            lines += [
                f"| {row} | {values['images_per_second']:,.0f} | {values['ratio']} |" for row, values in rows.items()
            ]
        if "profile" in result.get("notes", {}):
            lines += [
                "",
                "| share of a step's time, by torch.profiler | " + " | ".join(result["notes"]["profile"]) + " |",
            ]
            lines += ["|---|" + "---:|" * len(result["notes"]["profile"])]
            before, *others = result["notes"]["profile"].values()
            lines += [
                f"| {part} | " + " | ".join(str(parts[part]) for parts in (before, *others)) + " |" for part in before
            ]
        lines += ["", f"`{result['command']}`; {_on(machine)}"]
    return "\n".join(lines).strip()


def ablations() -> str:
    """What each change of the short run does to validation, in points against the first row."""
    result = _read("ablations")
    rows = result["rows"]
    base = next(iter(rows.values()))["validation accuracy"]
    lines = [
        "| one thing changed | validation accuracy | points | validation loss | training loss | images/s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for number, (name, row) in enumerate(rows.items()):
        accuracy = row["validation accuracy"]
        points = f"{100 * (accuracy - base):+.2f}" if number else ""
        lines.append(
            f"| {name} | {accuracy:.2%} | {points} | {row['validation loss']:.3f} | {row['training loss']:.3f} "
            f"| {row['images per second']:.0f} |"
        )
    return "\n".join([*lines, "", f"`{result['command']}`"])


def training_speed() -> str:
    """
    Images a second in the epochs of each kind, as the logs of the finished runs have them.

    A run on several devices is left out: its log does not say which epoch was on which.
    """
    kinds, image_size = {}, SlimResNetConfig().image_size
    for name, folder in RUNS.items():
        recipe, figures = read_recipe(folder), read_json(folder / RESULTS_NAME)
        if "train_samples_per_second" not in figures:
            continue
        stages = parse_resizing(recipe.progressive_resizing)
        speeds = kinds[f"`{name}.yaml`, {figures['train_device']}"] = {}
        for epoch, entry in enumerate(read_json(folder / TRAINER_STATE_NAME)["log_history"]):
            kind = f"{resolution(stages, epoch, recipe.num_train_epochs, image_size)} pixels"
            if is_sharpness_aware(recipe, epoch, recipe.num_train_epochs):
                kind += ", sharpness-aware"
            speeds.setdefault(kind, []).append(entry["train_samples_per_second"])
    columns = sorted({kind for speeds in kinds.values() for kind in speeds})
    lines = [f"| images/s, median epoch | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for run, speeds in kinds.items():
        cells = [f"{statistics.median(speeds[kind]):,.0f}" if kind in speeds else "" for kind in columns]
        lines.append(f"| {run} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gpu_step() -> str:
    """What a step costs on a GPU, a row for each size of batch and variant; then what augmentation did cost before."""
    result = _read("gpu_step")
    by_events = any("share_between_steps" in row for row in result["rows"])
    lines = [
        "| batch | step | images/s | kernels a step | ms, GPU at work | ms, waiting |"
        + " idle between steps |" * by_events,
        "|---:|---|---:|---:|---:|---:|" + "---:|" * by_events,
    ]
    lines += [
        f"| {row['batch_size']:,} | {row['variant']} | {row['images_per_second']:,} | {row['kernels_a_step']:,} "
        f"| {row['milliseconds_busy']} | {row['milliseconds_waiting']} |"
        + f" {_percent(row.get('share_between_steps'))} |"
        * by_events
        for row in result["rows"]
    ]
    machine = result["machine"]
    lines += ["", f"`{result['command']}`; {machine['device']}, torch {machine['torch']}"]
    before = {(row["batch_size"], row["variant"]): row["images_per_second"] for row in _read(BATCH_BY_BATCH)["rows"]}
    full, light = before[256, "as it is"], before[256, "light augmentation"]
    lines += [
        "",
        f"When each batch was augmented by itself, on another machine's card of this name, a batch of 256 with all "
        f"augmentation came to {full:,} images/s, and with light augmentation to {light:,} "
        f"(`benchmarks/{BATCH_BY_BATCH}.json`).",
    ]
    return "\n".join(lines)


def inference() -> str:
    """How fast each form answers and how well, then the accuracy of float32 and int8 by class."""
    result = _read("inference")
    tables, notes = result["tables"], result["notes"]
    one, many = ([title for title in tables if title.startswith(start)] for start in ("one", "128"))
    columns = [
        *(f"ms, {title.replace(' at a time', '')}" for title in one),
        *(f"images/s, {title.replace(' at a time', '')}" for title in many),
    ]
    lines = [
        f"| | MB | peak MB | test | {' | '.join(columns)} |",
        "|---|---:|---:|---:|" + "---:|" * len(columns),
    ]
    for form, facts in notes.items():
        cells = [
            form,
            f"{facts['file_bytes'] / 1e6:.1f}",
            f"{facts['peak_memory_bytes'] / 1e6:,.0f}",
            f"{facts['test_accuracy']:.2%}",
        ]
        for titles, write in ((one, lambda speed: f"{1000 / speed:.2f}"), (many, lambda speed: f"{speed:,.0f}")):
            for title in titles:
                row = tables[title]["rows"][form]
                cells.append(f"{write(row['images_per_second'])} ({row['ratio']:.2f} ×)")
        lines.append(f"| {' | '.join(cells)} |")
    by_class = {form: notes[form]["test_accuracy_by_class"] for form in (next(iter(notes)), *BY_CLASS)}
    lines += ["", f"| test accuracy by class | {' | '.join(by_class)} |", "|---|" + "---:|" * len(by_class)]
    for name in next(iter(by_class.values())):
        lines.append(f"| {name} | {' | '.join(f'{shares[name]:.1%}' for shares in by_class.values())} |")
    lines += ["", losses_of_int8(by_class)]
    machine = result["machine"]
    versions = ", ".join(f"{package} {machine[package]}" for package in ("torch", "onnxruntime", "openvino"))
    units = ", ".join(f"{'with' if machine[unit] else 'without'} {name}" for unit, name in UNITS.items())
    return "\n".join([*lines, "", f"`{result['command']}`; {machine['processor']} {units}, {versions}"])


def losses_of_int8(by_class: dict[str, dict[str, float]]) -> str:
    """Which classes lose more than `LARGEST_LOSS` against the first form, and in which of the others."""
    (_, before), *forms = by_class.items()
    losses = [
        f"{name} {100 * (share - shares[name]):.1f} ({form})"
        for form, shares in forms
        for name, share in before.items()
        if round(share - shares[name], 9) > LARGEST_LOSS
    ]
    limit = f"{100 * LARGEST_LOSS:g} points"
    if not losses:
        return f"In int8 no class loses more than {limit}."
    return f"In int8 these classes lose more than {limit}: {', '.join(losses)}."


def results() -> str:
    """A row for each finished run whose figures are kept, below the report's."""
    lines = [
        "| recipe | epochs | petaFLOP | hours | test | with TTA | 95 % | corrupted | calibration error |",
        "|---|---:|---:|---:|---:|---:|---|---:|---:|",
        "| the report, its epoch chosen on test | 200 | 16 | | | 94.65 % | | | |",
    ]
    commands, runs, overlaps = [], {}, []
    for name, folder in RUNS.items():
        figures, recipe = read_json(folder / RESULTS_NAME), read_recipe(folder)
        runs[f"`{name}.yaml`"] = figures
        overlapping = overlapping_augmentations(recipe)
        if overlapping and "test_corruption_accuracy" in figures:
            overlaps.append(f"Augmentations of `{name}.yaml` that do what corruptions do: {', '.join(overlapping)}.")
        policy = figures.get("test_tta", "none")
        with_tta = "_tta" if policy != "none" else ""
        cells = [
            f"`{name}.yaml`, seed {recipe.seed}, {figures['train_samples']:,} images",
            f"{figures['epoch']:.4g}",
            f"{figures['total_flos'] / 1e15:.2g}",
            f"{figures['train_runtime'] / 3600:.2f}",
            f"{figures['test_accuracy']:.2%}",
            f"{figures['test_accuracy_tta']:.2%} ({policy})" if with_tta else "",
            f"{figures[f'test_accuracy_low{with_tta}']:.2%} – {figures[f'test_accuracy_high{with_tta}']:.2%}",
            _percent(figures.get("test_corruption_accuracy")),
            f"{figures['test_expected_calibration_error']:.2%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
        speed = figures.get("train_samples_per_second")  # none of several devices together
        device = figures["train_device"] + ("" if speed is None else f", {speed:,.0f} images/s")
        # What the run was told on the command line: the settings of the file that it did not have.
        file = FOLDER.parent / f"configuration/{name}.yaml"
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
        asked = recipe.to_dict()
        flags = [f" --{key} {asked[key]}" for key, value in settings.items() if asked[key] != value]
        commands.append(f"`accelerate launch train.py --config configuration/{name}.yaml{''.join(flags)}`: {device}")
    notes = [test_scores(), *corrupted(runs), *overlaps]
    return "\n".join([*lines, "", "  \n".join(notes), "", "  \n".join(commands)])


def test_scores() -> str:
    """How many of the runs in the tables carry figures of test images."""
    folders = [*RUNS.values(), *(folder for name in TRIED.iterdir() for folder in name.iterdir())]
    runs = [read_json(folder / RESULTS_NAME) for folder in folders]
    tested, shifted = (sum(key in figures for figures in runs) for key in ("test_accuracy", "test_corruption_accuracy"))
    return (
        f"{tested} runs of these tables carry test scores, {shifted} of them scores of corrupted test images as well."
    )


def corrupted(runs: dict[str, dict]) -> list[str]:
    """What the corrupted figures of runs are of, given their results by name: a sentence, or one for each kind."""
    names: dict[str, list[str]] = {}
    for name, figures in runs.items():
        if "test_corruption_accuracy" in figures:
            precision = figures.get("test_corruption_precision")
            how = f" in {precision}" if precision else ""
            frost = FROST[figures.get("test_corruption_frost")]
            names.setdefault(f"{figures['test_corruption_samples']:,} test images{how}, with {frost}", []).append(name)
    if len(names) == 1:
        return [f"Corrupted: {sentence}." for sentence in names]
    return [f"Corrupted, {', '.join(alike)}: {sentence}." for sentence, alike in names.items()]


def tried(name: str) -> str:
    """The recipe of that name, then runs whose settings were not kept: what they have other than it, and figures."""
    kept = read_recipe(RUNS[name]).to_dict()
    lines = [
        "| settings | petaFLOP | validation | with TTA | training loss | test | with TTA | corrupted "
        "| calibration error |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    runs = {}
    for folder in (RUNS[name], *sorted((TRIED / name).iterdir())):
        figures, recipe = read_json(folder / RESULTS_NAME), read_recipe(folder).to_dict()
        changes = [
            f"`{setting}: {json.dumps(value)}`"
            for setting, value in recipe.items()
            if value != kept[setting] and SETTINGS[setting].affects == "weights"
        ]
        title = ", ".join(changes) or f"of the `{name}.yaml` above"
        runs[title] = figures
        policy = f" ({figures['eval_tta']})" if "eval_tta" in figures else ""
        cells = [
            title,
            f"{figures['total_flos'] / 1e15:.2g}",
            _percent(figures.get("eval_accuracy")),
            _percent(figures.get("eval_accuracy_tta")) + policy,
            f"{figures['train_loss']:.3f}",
            _percent(figures.get("test_accuracy")),
            _percent(figures.get("test_accuracy_tta")),
            _percent(figures.get("test_corruption_accuracy")),
            _percent(figures[f"{'test' if 'test_accuracy' in figures else 'eval'}_expected_calibration_error"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n\n".join(["\n".join(lines), *corrupted(runs)])


def distillation() -> str:
    """A row for each way to teach the small network of benchmarks/distillation.py, means over its seeds."""
    result = _read("distillation")
    lines = ["| what it learns from | seeds | validation | points | validation loss |", "|---|---:|---:|---:|---:|"]
    base = result["rows"][LABELS]["mean validation accuracy"]
    for name, row in result["rows"].items():
        gained = "" if name in (THE_TEACHER, LABELS) else f"{100 * (row['mean validation accuracy'] - base):+.2f}"
        loss = statistics.mean(each["validation loss"] for each in row["seeds"].values())
        accuracy = _percent(row["mean validation accuracy"])
        lines.append(f"| {name} | {len(row['seeds'])} | {accuracy} | {gained} | {loss:.3f} |")
    return "\n".join([*lines, "", f"`{result['command']}`; {_on(result['machine'])}"])


def finetuning() -> str:
    """A row for each number of images, means and spreads over the seeds: from nothing, and from trained weights."""
    result = _read("finetuning")
    lines = [
        "| images a class | seeds | from nothing | from the weights of CIFAR-10 | points |",
        "|---:|---:|---:|---:|---:|",
    ]
    for images, rows in result["rows"].items():
        if {*FINETUNED} <= rows.keys():
            nothing, tuned = (rows[name] for name in FINETUNED)
            cells = [_percent(row["mean accuracy"]) + _spread(row) for row in (nothing, tuned)]
            gained = f"{100 * (tuned['mean accuracy'] - nothing['mean accuracy']):+.1f}"
            lines.append(f"| {images} | {len(tuned['seeds'])} | {' | '.join(cells)} | {gained} |")
    return "\n".join([*lines, "", f"`{result['command']}`; {_on(result['machine'])}"])


def _spread(row: dict) -> str:
    """Half the distance between the seeds of a row, where it has several."""
    return f" (± {_percent(row['spread'] / 2)})" if len(row["seeds"]) > 1 else ""


def finetuning_choice() -> str:
    """A row for each candidate for finetune.yaml, the best first, a column for each number of images."""
    candidates = _read("finetuning")["candidates"]
    names = dict.fromkeys(name for rows in candidates.values() for name in rows)
    found = {name: [rows.get(name, {}).get("mean accuracy") for rows in candidates.values()] for name in names}
    head = ["learning rate, and what else", *(f"{images} images a class" for images in candidates)]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * len(candidates)}"]
    for name in sorted(found, key=lambda name: found[name][0] or 0, reverse=True):
        lines.append(f"| {' | '.join([name, *map(_percent, found[name])])} |")
    return "\n".join(lines)


def choices() -> str:
    """A row for each recipe that was compared on validation, means over its seeds."""
    if not (FOLDER / "choices.json").is_file():
        return "None of these runs has been made yet: they ask for a GPU."
    result = _read("choices")
    lines = [
        "| row | seeds | validation | spread | with TTA | calibration error | after a fit on these images | petaFLOP "
        "| minutes |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in result["rows"].items():
        seeds = [*row["seeds"].values()]

        def mean(figure: str, seeds=seeds) -> float | None:
            values = [each[figure] for each in seeds]
            return None if None in values else statistics.mean(values)

        cells = [
            name,
            str(len(seeds)),
            _percent(row["mean validation accuracy"]),
            _percent(row["spread"]),
            _percent(mean("validation accuracy with TTA")),
            _percent(mean("calibration error before")),
            _percent(mean("calibration error")),
            f"{mean('petaFLOP'):.3g}",
            f"{mean('minutes of steps'):.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    devices = {each["device"] for row in result["rows"].values() for each in row["seeds"].values()}
    return "\n".join([*lines, "", f"`{result['command']}`; {', '.join(sorted(devices))}"])


BLOCKS = {
    "results": results,
    "ablations": ablations,
    "distillation": distillation,
    "choices": choices,
    "finetuning": finetuning,
    "finetuning choice": finetuning_choice,
    **{f"tried {folder.name}": partial(tried, folder.name) for folder in sorted(TRIED.iterdir())},
    "training speed": training_speed,
    "gpu step": gpu_step,
    "kill_resume": kill_resume,
    "processes": processes,
    "inference": inference,
    "benchmarks": speed,
}


def updated(text: str) -> str:
    """
    The README's text with the figures of now between its marks.

    Raises:
        ValueError: the marks of a block are missing, or there more than once.
    """
    for name, write in BLOCKS.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        block = f"{begin}\n{write()}\n{end}"
        text, count = re.subn(
            f"{re.escape(begin)}.*?{re.escape(end)}", lambda _, block=block: block, text, flags=re.DOTALL
        )
        if count != 1:
            raise ValueError(f"{README} has {count} places between {begin} and {end}, where there must be one.")
    return text


def main(words: Sequence[str] | None = None) -> None:
    """Writes the README anew, or checks it; `words` stand for the command line in Python."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="Write nothing; exit with 1 if the README is out of date.")
    check = parser.parse_args(words).check
    before = README.read_text(encoding="utf-8")
    try:
        after = updated(before)
    except ValueError as error:
        sys.exit(f"write_readme: error: {error}")
    if check:
        if after != before:
            sys.exit(f"{README} does not have the figures of the files: run python -m benchmarks.write_readme.")
        print(f"{README} has the figures of the files")
        return
    README.write_text(after, encoding="utf-8")
    print(f"{README}: figures of {', '.join(BLOCKS)}")


if __name__ == "__main__":
    main()
