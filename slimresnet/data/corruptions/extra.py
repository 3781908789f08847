"""The 4 extra corruptions of CIFAR-10-C, which its authors made for validation: choices are to be made with these.

The corruptions follow `standard.py`, with the parameters of make_cifar_c.py, which are for small images. ImageNet-C, of
the same authors, has noise and blur two to six times as strong, drops of spatter up to six times as wide, and colours
at severities 3–5 saturated more.
"""

import numpy as np
from scipy.ndimage import binary_propagation, correlate, distance_transform_edt, uniform_filter

from slimresnet.data.corruptions.standard import Corruption, Generators, blur, each

_WATER = np.array([175, 238, 238]) / 255
_MUD = np.array([63, 42, 20]) / 255


def speckle_noise(images: np.ndarray, severity: int, generators: Generators) -> np.ndarray:
    scale = (0.06, 0.1, 0.12, 0.16, 0.2)[severity - 1]
    return images * (1 + scale * each(generators, lambda draw: draw.standard_normal(images.shape[1:])))


def gaussian_blur(images: np.ndarray, severity: int, generators: Generators) -> np.ndarray:
    return blur(images, (0.4, 0.6, 0.7, 0.8, 1)[severity - 1])


def spatter(images: np.ndarray, severity: int, generators: Generators) -> np.ndarray:
    """Drops: up to severity 3 of water, which shines where it is thick, then of mud."""
    mean, spread, size, floor, amount = (
        (0.62, 0.1, 0.7, 0.7, 0.5),
        (0.65, 0.1, 0.8, 0.7, 0.5),
        (0.65, 0.3, 1, 0.69, 0.5),
        (0.65, 0.1, 0.7, 0.69, 0.6),
        (0.65, 0.1, 0.5, 0.68, 0.6),
    )[severity - 1]
    liquid = blur(each(generators, lambda draw: draw.normal(mean, spread, images.shape[1:3])), size)
    if severity <= 3:
        drops = np.floor(255 * np.where(liquid < floor, 0, liquid))
        drops *= _relief(drops)
        thickest = drops.max(axis=(1, 2), keepdims=True)
        return images + (amount * drops / np.maximum(thickest, 1))[..., None] * _WATER
    mud = blur((liquid > floor).astype(float), amount)[..., None]
    mud = np.where(mud < 0.8, 0, mud)
    return (1 - mud) * images + mud * _MUD


def saturate(images: np.ndarray, severity: int, generators: Generators) -> np.ndarray:
    """Changes the saturation of hue, saturation and value; grey, which has no hue, counts as red."""
    factor, added = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[severity - 1]
    value = images.max(axis=3, keepdims=True)
    reach = value - images.min(axis=3, keepdims=True)
    hue = np.where(reach > 0, (value - images) / np.maximum(reach, 1e-9), [0, 1, 1])
    saturation = factor * reach / np.maximum(value, 1e-9) + added
    return value * (1 - saturation.clip(0, 1) * hue)


EXTRA_CORRUPTIONS: dict[str, Corruption] = {
    corruption.__name__: corruption for corruption in (speckle_noise, gaussian_blur, spatter, saturate)
}


def _relief(drops: np.ndarray) -> np.ndarray:
    """How much light drops, whole numbers in 0–255, `[B, H, W]`, give back by their edges: the same."""
    # Euclid's distances, where OpenCV's are the lengths of paths over a grid, which differ by 2 % at most. The tiny
    # number keeps a whole distance from falling a step.
    distances = np.stack([distance_transform_edt(~edges) for edges in _edges(drops)])
    distances = uniform_filter(distances.clip(0, 20), 3, mode="mirror", axes=(1, 2))
    levels = np.stack([_equalize(steps) for steps in (distances + 1e-6).astype(np.uint8)])
    light = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    lit = correlate(levels.astype(float), light[None], mode="mirror").clip(0, 255)
    return np.rint(uniform_filter(lit, 3, mode="mirror", axes=(1, 2)))


def _edges(drops: np.ndarray) -> np.ndarray:
    """Where Canny's method, as in OpenCV, finds edges between the thresholds 50 and 150: bool `[B, H, W]`."""
    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    down, right = (correlate(drops, kernel[None], mode="nearest") for kernel in (sobel.T, sobel))
    steepness = np.abs(down) + np.abs(right)
    padded = np.pad(steepness, ((0, 0), (1, 1), (1, 1)))
    height, width = drops.shape[1:]

    def neighbour(rows: int, columns: int) -> np.ndarray:
        return padded[:, 1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]

    slope = np.tan(np.pi / 8)
    across = np.abs(down) < slope * np.abs(right)
    upright = np.abs(down) > (slope + 2) * np.abs(right)  # tan(67.5°) = tan(22.5°) + 2
    falling = (down < 0) == (right < 0)
    ridge = np.where(
        falling,
        _between(steepness, neighbour(-1, -1), neighbour(1, 1), strictly=True),
        _between(steepness, neighbour(-1, 1), neighbour(1, -1), strictly=True),
    )
    ridge = np.where(upright, _between(steepness, neighbour(-1, 0), neighbour(1, 0)), ridge)
    ridge = np.where(across, _between(steepness, neighbour(0, -1), neighbour(0, 1)), ridge)
    weak = ridge & (steepness > 50)
    return binary_propagation(weak & (steepness > 150), structure=np.ones((1, 3, 3)), mask=weak)


def _between(values: np.ndarray, before: np.ndarray, after: np.ndarray, strictly: bool = False) -> np.ndarray:
    """Whether values stand out of their two neighbours."""
    return (values > before) & ((values > after) if strictly else (values >= after))


def _equalize(levels: np.ndarray) -> np.ndarray:
    """Levels, uint8 `[H, W]`, spread evenly over 0–255: int64."""
    counts = np.bincount(levels.ravel(), minlength=256)
    lowest = counts[levels.min()]
    if lowest == levels.size:
        return levels.astype(np.int64)
    return np.rint(255 * (counts.cumsum() - lowest) / (levels.size - lowest)).astype(np.int64)[levels]
