"""Writes the figures of the JSON files here into README.md, between its marks: python -m benchmarks.write_readme"""

import json
import re

from benchmarks.measuring import FOLDER

README = FOLDER.parent / "README.md"
MARKS = ("<!-- benchmarks: begin -->", "<!-- benchmarks: end -->")
FILES = ("training_step", "input_pipeline", "scaling")


def figures() -> str:
    """The tables as Markdown, each with its command."""
    lines = []
    for name in FILES:
        result = json.loads((FOLDER / f"{name}.json").read_text())
        machine = result["machine"]
        for title, table in result["tables"].items():
            rows = table["rows"]
            lines += ["", f"| {title} | images/s | ratio |", "|---|---:|---:|"]
            lines += [
                f"| {row} | {values['images_per_second']:,.0f} | {values['ratio']} |" for row, values in rows.items()
            ]
        if name == "training_step":
            lines += [
                "",
                "| share of a step's time, by torch.profiler | " + " | ".join(result["notes"]["profile"]) + " |",
            ]
            lines += ["|---|" + "---:|" * len(result["notes"]["profile"])]
            before, *others = result["notes"]["profile"].values()
            lines += [
                f"| {part} | " + " | ".join(str(parts[part]) for parts in (before, *others)) + " |" for part in before
            ]
        lines += [
            "",
            f"`{result['command']}`; {machine['processor']}, {machine['cores']} cores, torch {machine['torch']}",
        ]
    return "\n".join(lines).strip()


def updated(text: str) -> str:
    """The README's text with the figures of now between its marks."""
    begin, end = map(re.escape, MARKS)
    block = f"{MARKS[0]}\n{figures()}\n{MARKS[1]}"
    return re.sub(f"{begin}.*?{end}", lambda _: block, text, count=1, flags=re.DOTALL)


def main() -> None:
    """Writes the README anew."""
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"{README}: figures of {', '.join(FILES)}")


if __name__ == "__main__":
    main()
