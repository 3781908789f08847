"""What `synthetic_frost` and `frost` lay over an image: ice made of noise, or pieces of photographs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from slimresnet.data.images import open_picture, picture_suffixes
from slimresnet.data.sources.source import DatasetError

# Four kinds of frost, as the photographs of CIFAR-10-C show them at a fifth of their size; the second stands twice,
# because two of the five photographs are of it. The figures of a kind: its mean colour; a factor for each channel on
# what varies; and the standard deviations of what varies from piece to piece, over 4 pixels, over 1 pixel, and from
# pixel to pixel.
KINDS = (
    ((0.30, 0.58, 0.65), (1.47, 0.91, 0.86), (0.036, 0.042, 0.009, 0.035)),
    ((0.78, 0.79, 0.83), (0.97, 1.00, 1.03), (0.030, 0.042, 0.026, 0.053)),
    ((0.78, 0.79, 0.83), (0.97, 1.00, 1.03), (0.030, 0.042, 0.026, 0.053)),
    ((0.56, 0.62, 0.67), (1.00, 1.00, 1.03), (0.033, 0.045, 0.025, 0.087)),
    ((0.40, 0.44, 0.49), (1.00, 1.00, 0.97), (0.056, 0.053, 0.064, 0.097)),
)
# Standard deviations of the logarithms of two strengths: the contrast of a whole piece, which differs from piece to
# piece, and the strength of the grain, which differs over 2.5 pixels within a piece.
_SPREAD, _UNEVENNESS = 0.2, 0.35


def grow_ice(shape: tuple[int, int], generators: Sequence[np.random.Generator]) -> np.ndarray:
    """
    Synthetic ice: noise with the colours, the contrast and the spectrum of photographed frost.

    Args:
        shape: height and width.
        generators: one for each image.

    Returns:
        In 0–1, float64 `[B, H, W, 3]`.
    """
    kinds = [KINDS[draw.integers(len(KINDS))] for draw in generators]
    colours, gains, strengths = (np.array(part)[:, None, None] for part in zip(*kinds, strict=True))
    level, contrast = np.stack([draw.standard_normal((2, 1, 1)) for draw in generators], axis=1)
    wide, narrow, unevenness, grain = np.stack([draw.standard_normal((4, *shape)) for draw in generators], axis=1)
    grain = grain * np.exp(_UNEVENNESS * _soften(unevenness, 2.5) - _UNEVENNESS**2)
    varies = np.stack([_soften(wide, 4), _soften(narrow, 1), grain], axis=-1) * np.exp(_SPREAD * contrast)[..., None]
    relief = strengths[..., :1] * level[..., None] + (strengths[..., 1:] * varies).sum(axis=-1, keepdims=True)
    return (colours + gains * relief).clip(0, 1)


def open_photographs(folder: Path, image_size: int) -> list[np.ndarray]:
    """
    The photographs in a folder, as they are: RGB in 0–1, float64 `[H, W, 3]` each, in the order of their names.

    Raises:
        DatasetError: the folder holds no photographs, or a photograph cannot be read or is below `image_size`.
    """
    if not folder.is_dir():
        raise DatasetError(f"--frost_folder {folder} is no folder.")
    suffixes = picture_suffixes()
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in suffixes)
    if not files:
        raise DatasetError(f"--frost_folder {folder} holds no images.")
    photographs = []
    for file in files:
        try:
            photographs.append(np.asarray(open_picture(file.read_bytes()).convert("RGB")) / 255)
        except (OSError, SyntaxError, ValueError) as error:
            raise DatasetError(f"--frost_folder: {file} cannot be read as an image: {error}.") from error
        if min(photographs[-1].shape[:2]) < image_size:
            height, width = photographs[-1].shape[:2]
            raise DatasetError(
                f"--frost_folder: {file} has {width}×{height} pixels, and needs {image_size}×{image_size}."
            )
    return photographs


def cut_pieces(
    photographs: list[np.ndarray], shape: tuple[int, int], generators: Sequence[np.random.Generator]
) -> np.ndarray:
    """A piece of one of the photographs for each image, `[B, H, W, 3]`."""
    height, width = shape
    pieces = []
    for draw in generators:
        photograph = photographs[draw.integers(len(photographs))]
        top, left = (draw.integers(have - want + 1) for have, want in zip(photograph.shape, shape, strict=False))
        pieces.append(photograph[top : top + height, left : left + width])
    return np.stack(pieces)


def _soften(noise: np.ndarray, sigma: float) -> np.ndarray:
    """White noise `[B, H, W]` of a standard deviation of 1, blurred to a grain of `sigma` pixels, of about 1 again."""
    return 2 * np.sqrt(np.pi) * sigma * gaussian_filter(noise, sigma, mode="wrap", axes=(1, 2))
