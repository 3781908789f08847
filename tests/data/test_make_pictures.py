"""The pictures that ship are those that the program draws: small enough, of many sizes, and told apart by shape."""

import numpy as np
from conftest import REPOSITORY
from PIL import Image

from examples.make_pictures import A_CLASS, CORNERS, FOLDER, SEED, draw_picture


def test_the_pictures_that_ship_are_the_ones_that_are_drawn():
    random = np.random.default_rng(SEED)
    sizes, differences = set(), []
    for shape in CORNERS:
        for number in range(A_CLASS):
            drawn = draw_picture(shape, random)
            with Image.open(FOLDER / shape / f"{number:02}.jpg") as shipped:
                assert shipped.size == drawn.size
                sizes.add(shipped.size)
                differences.append(np.abs(np.asarray(shipped.convert("RGB"), int) - np.asarray(drawn, int)).mean())
    assert np.mean(differences) < 10  # JPEG keeps little of the grain
    assert len(sizes) > 50 and any(width != height for width, height in sizes)
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert len(files) == 60 and sum(file.stat().st_size for file in files) < 300_000
    assert FOLDER == REPOSITORY / "examples" / "pictures"
