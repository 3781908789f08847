"""
Draws the 60 pictures in examples/pictures: python -m examples.make_pictures

Twenty of each of three classes, in folders of their names, as somebody's own pictures lie: of many sizes, few of them
square, with no split. Shape decides the class; colour, size, place and background say nothing of it.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

FOLDER = Path(__file__).with_name("pictures")
CORNERS = {"circle": 40, "star": 5, "triangle": 3}
A_CLASS = 20
SEED = 1
SCALE = 4  # drawn larger and scaled down, for smooth edges


def draw_picture(shape: str, random: np.random.Generator) -> Image.Image:
    """A picture of a shape, RGB, 40 to 120 pixels a side."""
    width, height = (SCALE * side for side in random.integers(40, 121, 2).tolist())
    background, colour = random.integers(0, 256, (2, 3))
    while np.abs(background - colour).sum() < 240:
        background, colour = random.integers(0, 256, (2, 3))
    grain = random.normal(0, 12, (height // SCALE, width // SCALE, 3))
    picture = Image.new("RGB", (width, height), tuple(background.tolist()))
    radius = min(width, height) * random.uniform(0.28, 0.46)
    centre = [random.uniform(radius, side - radius) for side in (width, height)]
    turn, corners = random.uniform(0, 2 * math.pi), CORNERS[shape]
    radii = [radius, 0.42 * radius] * corners if shape == "star" else [radius] * corners
    points = [
        tuple(middle + far * wave(turn + 2 * math.pi * number / len(radii))
              for middle, wave in zip(centre, (math.cos, math.sin), strict=True))
        for number, far in enumerate(radii)
    ]  # fmt: skip
    ImageDraw.Draw(picture).polygon(points, fill=tuple(colour.tolist()))
    small = picture.resize((width // SCALE, height // SCALE), Image.Resampling.LANCZOS)
    return Image.fromarray((np.asarray(small) + grain).clip(0, 255).astype(np.uint8))


def main() -> None:
    """Draws all of them, the same ones each time."""
    argparse.ArgumentParser(description=__doc__.strip().splitlines()[0]).parse_args()
    random = np.random.default_rng(SEED)
    for shape in CORNERS:
        (FOLDER / shape).mkdir(parents=True, exist_ok=True)
        for number in range(A_CLASS):
            draw_picture(shape, random).save(FOLDER / shape / f"{number:02}.jpg", quality=85)
    print(f"{len(CORNERS) * A_CLASS} pictures in {FOLDER}")


if __name__ == "__main__":
    main()
