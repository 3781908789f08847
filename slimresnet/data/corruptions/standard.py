"""The 15 corruptions × 5 severities of CIFAR-10-C, computed on the fly.

Hendrycks and Dietterich, 2019, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations"; the
parameters are those that CIFAR-10-C was made with (https://github.com/hendrycks/robustness, make_cifar_c.py), which are
meant for images of 32×32. Two things differ: the random numbers, which are a function of (seed, corruption, severity,
row), and frost. The photographs of frost do not travel with this project; `synthetic_frost` stands in for them, and
`with_photographs` takes the user's own photographs instead.
"""

import io
import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from PIL.Image import Resampling
from scipy.ndimage import convolve, gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from slimresnet.data.corruptions.frost import cut_pieces, grow_ice
from slimresnet.data.luma import luma

SEVERITIES = range(1, 6)
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
BLURS = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "gaussian_blur")

Generators = list[np.random.Generator]
"""A random generator for each image of a batch."""
Corruption = Callable[[np.ndarray, int, Generators], np.ndarray]


def gaussian_noise(images: np.ndarray, severity: int, generators: Generators) -> np.ndarray:
    """
    Adds Gaussian noise.

    Every corruption takes images in 0–1, float64 `[B, H, W, 3]`, and returns the same shape and type. `corrupt` clips
    values outside of 0–1.
    """
    scale = (0.04, 0.06, 0.08, 0.09, 0.10)[severity - 1]
    return images + scale * each(generators, lambda draw: draw.standard_normal(images.shape[1:]))


def shot_noise(images: np.ndarray, severity: int, generators: Generators) -> np.ndarray:
    photons = (500, 250, 100, 75, 50)[severity - 1]
    return np.stack([draw.poisson(image * photons) for image, draw in zip(images, generators, strict=True)]) / photons


def impulse_noise(images: np.ndarray, severity: int, generators: Generators) -> np.ndarray:
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
    drawn = each(generators, lambda draw: draw.random(images.shape[1:]))
    return np.where(drawn < share / 2, 0.0, np.where(drawn < share, 1.0, images))


def defocus_blur(images: np.ndarray, severity: int, generators: Generators) -> np.ndarray:
    radius, softness = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity - 1]
    reach = np.arange(-3, 4)
    disk = ((reach[:, None] ** 2 + reach**2) <= radius**2).astype(float)
    side = np.exp(-0.5 / softness**2)
    soft = np.array([side, 1, side]) / (1 + 2 * side)
    kernel = convolve(disk / disk.sum(), np.outer(soft, soft), mode="constant")
    return convolve(images, kernel[None, :, :, None], mode="mirror")


def glass_blur(images: np.ndarray, severity: int, generators: Generators) -> np.ndarray:
    sigma, passes = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[severity - 1]
    blurred = np.floor(255 * blur(images, sigma)) / 255
    height, width = images.shape[1:3]
    rows, columns = np.arange(2, height), np.arange(2, width)
    batch = np.arange(len(images))[:, None, None]
    for _ in range(passes):
        # A pixel takes the place of its neighbour to the lower right and stays where it is too: the published images
        # were made by an exchange that NumPy's views turned into a copy.
        step = each(generators, lambda draw: draw.integers(-1, 1, (2, len(rows), len(columns))))
        taken = blurred[batch, rows[:, None] + step[:, 0], columns + step[:, 1]]
        blurred[:, 2:, 2:] = taken
    return blur(blurred, sigma)


def motion_blur(images: np.ndarray, severity: int, generators: Generators) -> np.ndarray:
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity - 1]
    return _move(images, radius, sigma, each(generators, lambda draw: draw.uniform(-45, 45)))


def zoom_blur(images: np.ndarray, severity: int, generators: Generators) -> np.ndarray:
    factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1], 0.01)
    return (images + sum(_zoom(images, factor) for factor in factors)) / (len(factors) + 1)


def snow(images: np.ndarray, severity: int, generators: Generators) -> np.ndarray:
    mean, spread, size, floor, radius, sigma, keep = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity - 1]
    flakes = each(generators, lambda draw: draw.normal(mean, spread, (*images.shape[1:3], 1)))
    flakes = _zoom(flakes, size)
    flakes = np.floor(255 * np.where(flakes < floor, 0, flakes).clip(0, 1)) / 255
    flakes = _move(flakes, radius, sigma, each(generators, lambda draw: draw.uniform(-135, -45)))
    grey = (images @ _LUMA)[..., None]
    pale = keep * images + (1 - keep) * np.maximum(images, 1.5 * grey + 0.5)
    return pale + flakes + flakes[:, ::-1, ::-1]


def synthetic_frost(images: np.ndarray, severity: int, generators: Generators) -> np.ndarray:
    """As hard as the frost of CIFAR-10-C, with noise in place of its photographs."""
    return _lay_over(images, severity, grow_ice(images.shape[1:3], generators))


def fog(images: np.ndarray, severity: int, generators: Generators) -> np.ndarray:
    amount, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity - 1]
    brightest = images.max(axis=(1, 2, 3), keepdims=True)
    haze = amount * plasma(images.shape[1:3], decay, generators)[..., None]
    return (images + haze) * brightest / (brightest + amount)


def brightness(images: np.ndarray, severity: int, generators: Generators) -> np.ndarray:
    """Adds to the value of hue, saturation and value: all channels grow by the same factor."""
    value = images.max(axis=3, keepdims=True)
    brighter = np.minimum(value + (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1], 1)
    return np.where(value > 0, images * (brighter / np.maximum(value, 1e-9)), brighter)


def contrast(images: np.ndarray, severity: int, generators: Generators) -> np.ndarray:
    mean = images.mean(axis=(1, 2), keepdims=True)
    return (images - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1] + mean


def elastic_transform(images: np.ndarray, severity: int, generators: Generators) -> np.ndarray:
    """A random affine map, then a smooth random displacement of every pixel."""
    height, width = images.shape[1:3]
    size = min(height, width)
    amount, smoothness, jitter = (
        (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)
    )[severity - 1]  # fmt: skip
    centre, reach = np.array([width, height]) // 2, size // 3
    corners = centre + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + each(generators, lambda draw: draw.uniform(-jitter * size, jitter * size, (3, 2)))
    # The affine map from a pixel's new place to its old place, [B, 2, 3].
    back = corners.T @ np.linalg.inv(np.concatenate([moved, np.ones((len(images), 3, 1))], axis=2)).transpose(0, 2, 1)
    y, x = np.mgrid[:height, :width].astype(float)
    source = np.einsum("bij,jhw->bhwi", back, np.stack([x, y, np.ones_like(x)]))
    images = _sample(images, source, align_corners=True)
    if not amount:
        return images
    drawn = each(generators, lambda draw: draw.uniform(-1, 1, (height, width, 2)))
    shift = amount * size * gaussian_filter(drawn, smoothness * size, axes=(1, 2), truncate=3)
    return _sample(images, np.stack([x, y], axis=-1) + shift, align_corners=False)


def pixelate(images: np.ndarray, severity: int, generators: Generators) -> np.ndarray:
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity - 1]

    def shrink(image: Image.Image) -> Image.Image:
        small = image.resize((int(image.width * share), int(image.height * share)), Resampling.BOX)
        return small.resize(image.size, Resampling.BOX)

    return _by_pillow(images, shrink)


def jpeg_compression(images: np.ndarray, severity: int, generators: Generators) -> np.ndarray:
    def compress(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=(80, 65, 58, 50, 40)[severity - 1])
        return Image.open(file, formats=["JPEG"])

    return _by_pillow(images, compress)


CORRUPTIONS: dict[str, Corruption] = {
    corruption.__name__: corruption
    for corruption in (
        gaussian_noise, shot_noise, impulse_noise, defocus_blur, glass_blur, motion_blur, zoom_blur, snow,
        synthetic_frost, fog, brightness, contrast, elastic_transform, pixelate, jpeg_compression,
    )
}  # fmt: skip


def with_photographs(photographs: list[np.ndarray]) -> dict[str, Corruption]:
    """The 15 with `frost` in the place of its stand-in: pieces of photographs, RGB in 0–1, float64 `[H, W, 3]` each."""
    frost = partial(_frost, photographs=photographs)
    return dict(("frost", frost) if name == "synthetic_frost" else (name, each) for name, each in CORRUPTIONS.items())


def _frost(
    images: np.ndarray, severity: int, generators: Generators, photographs: list[np.ndarray]
) -> np.ndarray:  # at module level: workers, to which it is pickled, find it by its name
    return _lay_over(images, severity, cut_pieces(photographs, images.shape[1:3], generators))


def corrupt(pixels: Tensor, name: str, corruption: Corruption, severity: int, rows: np.ndarray, seed: int) -> Tensor:
    """
    Corrupts a batch, each image by its own draw. Corruptions are those of colours: what they make of a grey image as
    RGB turns grey again.

    Args:
        pixels: uint8 `[B, C, H, W]`, RGB or grey.
        name: name of the corruption, for the draws.
        severity: 1–5.
        rows: row numbers of the images, int64 `[B]`.

    Returns:
        uint8 `[B, C, H, W]`.
    """
    key = np.random.SeedSequence([seed, zlib.crc32(name.encode()), severity]).generate_state(2, np.uint64)
    generators = [np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, row])) for row in rows]
    images = pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy() / 255
    corrupted = corruption(images, severity, generators).clip(0, 1)
    # Fractions are cut off, as in the published images. The tiny number keeps unchanged pixels unchanged.
    coloured = torch.from_numpy((255 * corrupted + 1e-6).astype(np.uint8)).permute(0, 3, 1, 2)
    return (luma(coloured) if pixels.shape[1] == 1 else coloured).contiguous()


def each(generators: Generators, draw: Callable[[np.random.Generator], np.ndarray | float]) -> np.ndarray:
    """Draws from the generator of each image, `[B, …]`."""
    return np.stack([draw(generator) for generator in generators])


def blur(images: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur of images `[B, H, W, …]`; the border is repeated."""
    return gaussian_filter(images, sigma, mode="nearest", axes=(1, 2))


def _lay_over(images: np.ndarray, severity: int, ice: np.ndarray) -> np.ndarray:
    keep, share = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity - 1]
    return keep * images + share * ice


def _zoom(images: np.ndarray, factor: float) -> np.ndarray:
    """The middle of each image, enlarged to the size of the whole."""
    height, width = images.shape[1:3]
    inner = [int(np.ceil(size / factor)) for size in (height, width)]
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    middle = torch.from_numpy(images[:, top : top + inner[0], left : left + inner[1]]).permute(0, 3, 1, 2)
    size = [round(length * factor) for length in inner]
    larger = F.interpolate(middle, size, mode="bilinear", align_corners=True).permute(0, 2, 3, 1).numpy()
    top, left = (larger.shape[1] - height) // 2, (larger.shape[2] - width) // 2
    return larger[:, top : top + height, left : left + width]


def _move(images: np.ndarray, radius: int, sigma: float, angles: np.ndarray) -> np.ndarray:
    """ImageMagick's motion blur: one half of a Gaussian along a direction, in degrees `[B]`; the border is repeated."""
    taps = np.arange(2 * radius + 1)
    weights = np.exp(-0.5 * (taps / sigma) ** 2)
    weights /= weights.sum()
    radians = np.deg2rad(angles)[:, None]
    down = np.ceil(taps * np.sin(radians) - 0.5).astype(int)
    right = np.ceil(taps * np.cos(radians) - 0.5).astype(int)
    height, width = images.shape[1:3]
    batch = np.arange(len(images))[:, None, None]
    moved = np.zeros_like(images)
    for tap, weight in enumerate(weights):
        rows = (np.arange(height) + down[:, tap, None]).clip(0, height - 1)
        columns = (np.arange(width) + right[:, tap, None]).clip(0, width - 1)
        moved += weight * images[batch, rows[:, :, None], columns[:, None, :]]
    return moved


def plasma(shape: tuple[int, int], decay: float, generators: Generators) -> np.ndarray:
    """
    Height maps by the diamond-square algorithm (Fournier, Fussell and Carpenter, 1982), scaled to 0–1: `[B, H, W]`.

    Args:
        decay: divisor of the random part's amplitude, from one step to the next, which is half as wide.
    """
    side = 1 << (max(shape) - 1).bit_length()
    noise = each(generators, lambda draw: draw.uniform(-1, 1, (side, side)))
    heights = np.zeros_like(noise)
    step, amplitude = side, 100.0
    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=1)
        squares = (pairs + np.roll(pairs, -1, axis=2)) / 4
        heights[:, half::step, half::step] = squares + amplitude**2 * noise[:, half::step, half::step]
        centres = heights[:, half::step, half::step]
        above = (centres + np.roll(centres, 1, axis=1) + corners + np.roll(corners, -1, axis=2)) / 4
        heights[:, ::step, half::step] = above + amplitude**2 * noise[:, ::step, half::step]
        beside = (centres + np.roll(centres, 1, axis=2) + corners + np.roll(corners, -1, axis=1)) / 4
        heights[:, half::step, ::step] = beside + amplitude**2 * noise[:, half::step, ::step]
        step, amplitude = half, amplitude / decay
    heights -= heights.min(axis=(1, 2), keepdims=True)
    heights /= heights.max(axis=(1, 2), keepdims=True)
    return heights[:, : shape[0], : shape[1]]


def _sample(images: np.ndarray, source: np.ndarray, align_corners: bool) -> np.ndarray:
    """
    The images at other places, bilinear, mirrored at the border.

    Args:
        source: x and y that each pixel is taken from, `[B, H, W, 2]`.
        align_corners: the mirror stands in the middle of the outermost pixels, and not at their outer edge.
    """
    size = np.array(images.shape[2:0:-1])
    scaled = 2 * source / (size - 1) - 1 if align_corners else (2 * source + 1) / size - 1
    sampled = F.grid_sample(
        torch.from_numpy(images).permute(0, 3, 1, 2),
        torch.from_numpy(scaled),
        padding_mode="reflection",
        align_corners=align_corners,
    )
    return sampled.permute(0, 2, 3, 1).numpy()


def _by_pillow(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    pictures = [Image.fromarray(image) for image in np.rint(255 * images).astype(np.uint8)]
    return np.stack([np.asarray(change(picture)) for picture in pictures]) / 255
