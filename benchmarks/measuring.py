"""What the benchmarks share: turns, medians, the table, the file."""

import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from slimresnet.recipe.hardware import has_bf16, processor_name
from slimresnet.run_folder.writing import write_json

FOLDER = Path(__file__).parent


def take_turns(contenders: dict[str, Callable[[], int]], rounds: int) -> dict[str, dict[str, float]]:
    """
    Calls each contender once a round, after a first call that is not counted.

    Args:
        contenders: functions that do some work and return how many images it was.

    Returns:
        For each, `images_per_second`: the median over the rounds, and the lowest and highest beside it.
    """
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for work in contenders.values():
        work()
    for _ in range(rounds):
        for name, work in contenders.items():
            started = time.perf_counter()
            images = work()
            speeds[name].append(images / (time.perf_counter() - started))
    return {
        name: {
            "images_per_second": round(statistics.median(values), 1),
            "lowest": round(min(values), 1),
            "highest": round(max(values), 1),
        }
        for name, values in speeds.items()
    }


def report(
    name: str,
    command: str,
    tables: dict[str, tuple[str, dict]],
    notes: dict | None = None,
    packages: Sequence[str] = (),
) -> None:
    """
    Prints tables and writes them to `benchmarks/NAME.json`.

    Args:
        tables: by title, the contender that the others are compared with, and what `take_turns` returned.
        packages: whose versions matter, beside those that always do.
    """
    result = {"command": command, "machine": machine(*packages), "tables": {}} | ({"notes": notes} if notes else {})
    for title, (reference, rows) in tables.items():
        base = rows[reference]["images_per_second"]
        rows = {row: values | {"ratio": round(values["images_per_second"] / base, 2)} for row, values in rows.items()}
        result["tables"][title] = {"ratio_to": reference, "rows": rows}
        width = max(map(len, rows))
        print(f"\n{title} (ratio to: {reference})")
        for row, values in rows.items():
            spread = f"{values['lowest']:,.0f}-{values['highest']:,.0f}"
            print(
                f"  {row:{width}}  {values['images_per_second']:>11,.0f} images/s  {values['ratio']:6.2f} ×  ({spread})"
            )
    path = FOLDER / f"{name}.json"
    write_json(path, result)
    print(f"\nwritten to {path}")


def take_in(row: dict, seed: int, figures: dict, figure: str = "validation accuracy") -> None:
    """Adds the figures of a seed to a row's `seeds`; mean and spread of one of them, `figure`, are anew."""
    row["seeds"][str(seed)] = figures
    found = [each[figure] for each in row["seeds"].values()]
    row[f"mean {figure}"] = round(statistics.mean(found), 5)
    row["spread"] = round(max(found) - min(found), 5)


def write_rows(path: Path, module: str, rows: dict) -> None:
    """Writes rows with the command of this process, whose program is `module`, and the machine."""
    command = shlex.join(["python", "-m", module, *sys.argv[1:]])
    write_json(path, {"command": command, "machine": machine(), "rows": rows})


def machine(*packages: str) -> dict[str, str | int]:
    """What the figures were measured on; `packages` matter for them beside those that always do."""
    capabilities = torch.cpu.get_capabilities()
    return {
        "processor": processor_name(),
        "cores": capabilities.get("num_physical_cores", 0),
        "bf16": has_bf16("cpu"),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "vnni": bool(capabilities.get("avx512_vnni") or capabilities.get("avx_vnni")),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "transformers", "datasets", "accelerate", *packages)},
    }
