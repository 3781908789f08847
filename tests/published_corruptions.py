"""
The corruptions of CIFAR-10-C once more, an image at a time and as plainly as they can be said, to test ours against.

Constants and steps are those of make_cifar_c.py (https://github.com/hendrycks/robustness). Each function takes an
image, RGB in 0–1, float64 `[H, W, 3]`, the severity and the image's generator, and returns the corrupted image.
"""

import colorsys
import io

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates, zoom
from scipy.signal import correlate2d


def by_channel(image, change):
    return np.dstack([change(image[..., channel]) for channel in range(3)])


def by_hsv(image, change):
    changed = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel))) for pixel in image.reshape(-1, 3)]
    return np.reshape(changed, image.shape)


def by_pillow(image, change):
    return np.asarray(change(Image.fromarray(np.rint(255 * image).astype(np.uint8)))) / 255


def smooth(image, sigma):
    return by_channel(image, lambda channel: gaussian_filter(channel, sigma, mode="nearest"))


def gaussian_noise(image, severity, draw):
    return image + draw.normal(scale={1: 0.04, 2: 0.06, 3: 0.08, 4: 0.09, 5: 0.10}[severity], size=image.shape)


def shot_noise(image, severity, draw):
    photons = {1: 500, 2: 250, 3: 100, 4: 75, 5: 50}[severity]
    return draw.poisson(image * photons) / photons


def impulse_noise(image, severity, draw):
    amount = {1: 0.01, 2: 0.02, 3: 0.03, 4: 0.05, 5: 0.07}[severity]
    drawn = draw.random(image.shape)
    noisy = image.copy()
    noisy[drawn < amount] = 1
    noisy[drawn < amount / 2] = 0
    return noisy


def speckle_noise(image, severity, draw):
    scale = {1: 0.06, 2: 0.1, 3: 0.12, 4: 0.16, 5: 0.2}[severity]
    return image + image * draw.normal(scale=scale, size=image.shape)


def gaussian_blur(image, severity, draw):
    return smooth(image, {1: 0.4, 2: 0.6, 3: 0.7, 4: 0.8, 5: 1}[severity])


def defocus_blur(image, severity, draw):
    radius, softness = {1: (0.3, 0.4), 2: (0.4, 0.5), 3: (0.5, 0.6), 4: (1, 0.2), 5: (1.5, 0.1)}[severity]
    x, y = np.meshgrid(np.arange(-8, 9), np.arange(-8, 9))
    disk = (x**2 + y**2 <= radius**2) / np.sum(x**2 + y**2 <= radius**2)
    taps = np.exp(-(np.arange(-1, 2) ** 2) / (2 * softness**2))
    taps /= taps.sum()
    kernel = correlate2d(disk, np.outer(taps, taps), mode="same")
    return by_channel(image, lambda channel: correlate2d(np.pad(channel, 8, mode="reflect"), kernel, mode="valid"))


def glass_blur(image, severity, draw):
    sigma, passes = {1: (0.05, 1), 2: (0.25, 1), 3: (0.4, 1), 4: (0.25, 2), 5: (0.4, 2)}[severity]
    shuffled = (255 * smooth(image, sigma)).astype(np.uint8)
    height, width = image.shape[:2]
    for _ in range(passes):
        down, right = draw.integers(-1, 1, (2, height - 2, width - 2))
        for row in range(height - 1, 1, -1):
            for column in range(width - 1, 1, -1):
                other = row + down[row - 2, column - 2], column + right[row - 2, column - 2]
                shuffled[row, column], shuffled[other] = shuffled[other], shuffled[row, column]
    return smooth(shuffled / 255, sigma)


def move(image, radius, sigma, angle):
    taps = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    reach = 2 * radius + 1
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    height, width = image.shape[:2]
    moved = np.zeros_like(image)
    for tap, weight in enumerate(taps):
        row = reach + int(np.ceil(tap * np.sin(np.radians(angle)) - 0.5))
        column = reach + int(np.ceil(tap * np.cos(np.radians(angle)) - 0.5))
        moved += weight * padded[row : row + height, column : column + width]
    return moved


def motion_blur(image, severity, draw):
    radius, sigma = {1: (6, 1), 2: (6, 1.5), 3: (6, 2), 4: (8, 2), 5: (9, 2.5)}[severity]
    return move(image, radius, sigma, draw.uniform(-45, 45))


def clipped_zoom(image, factor):
    height, width = image.shape[:2]
    inner_height, inner_width = int(np.ceil(height / factor)), int(np.ceil(width / factor))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    larger = zoom(image[top : top + inner_height, left : left + inner_width], (factor, factor, 1), order=1)
    top, left = (larger.shape[0] - height) // 2, (larger.shape[1] - width) // 2
    return larger[top : top + height, left : left + width]


def zoom_blur(image, severity, draw):
    end = {1: 1.06, 2: 1.11, 3: 1.16, 4: 1.21, 5: 1.26}[severity]
    zoomed = [clipped_zoom(image, factor) for factor in np.arange(1, end, 0.01)]
    return np.mean([image, *zoomed], axis=0)


def snow(image, severity, draw):
    mean, spread, size, floor, radius, sigma, keep = {
        1: (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        2: (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        3: (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        4: (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        5: (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    }[severity]
    layer = clipped_zoom(draw.normal(mean, spread, (*image.shape[:2], 1)), size)
    layer[layer < floor] = 0
    layer = (np.clip(layer, 0, 1) * 255).astype(np.uint8) / 255
    layer = move(layer, radius, sigma, draw.uniform(-135, -45))
    grey = (0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2])[..., np.newaxis]
    pale = keep * image + (1 - keep) * np.maximum(image, grey * 1.5 + 0.5)
    return pale + layer + np.rot90(layer, k=2)


FROST = {1: (1, 0.2), 2: (1, 0.3), 3: (0.9, 0.4), 4: (0.85, 0.4), 5: (0.75, 0.45)}


def plasma(side, decay, draw):
    """Diamond-square, a point at a time; the map repeats at its borders."""
    noise = draw.uniform(-1, 1, (side, side))
    heights = np.zeros((side, side))
    step, wibble = side, 100.0
    while step >= 2:
        half = step // 2

        def fill(row, column, neighbours, wibble=wibble):
            mean = sum(heights[(row + down) % side, (column + right) % side] for down, right in neighbours) / 4
            heights[row, column] = mean + wibble * wibble * noise[row, column]

        for row in range(half, side, step):
            for column in range(half, side, step):
                fill(row, column, [(-half, -half), (-half, half), (half, -half), (half, half)])
        cross = [(-half, 0), (half, 0), (0, -half), (0, half)]
        for row in range(0, side, step):
            for column in range(half, side, step):
                fill(row, column, cross)
        for row in range(half, side, step):
            for column in range(0, side, step):
                fill(row, column, cross)
        step, wibble = half, wibble / decay
    heights -= heights.min()
    return heights / heights.max()


def fog(image, severity, draw):
    amount, decay = {1: (0.2, 3), 2: (0.5, 3), 3: (0.75, 2.5), 4: (1, 2), 5: (1.5, 1.75)}[severity]
    height, width = image.shape[:2]
    side = 1
    while side < max(height, width):
        side *= 2
    haze = plasma(side, decay, draw)[:height, :width, np.newaxis]
    return (image + amount * haze) * image.max() / (image.max() + amount)


def brightness(image, severity, draw):
    added = {1: 0.05, 2: 0.1, 3: 0.15, 4: 0.2, 5: 0.3}[severity]
    return by_hsv(image, lambda hue, saturation, value: (hue, saturation, min(value + added, 1)))


def contrast(image, severity, draw):
    kept = {1: 0.75, 2: 0.5, 3: 0.4, 4: 0.3, 5: 0.15}[severity]
    return by_channel(image, lambda channel: (channel - channel.mean()) * kept + channel.mean())


def elastic_transform(image, severity, draw):
    amount, smoothness, jitter = {
        1: (0, 0, 0.08), 2: (0.05, 0.2, 0.07), 3: (0.08, 0.06, 0.06), 4: (0.1, 0.04, 0.05), 5: (0.1, 0.03, 0.03)
    }[severity]  # fmt: skip
    height, width = image.shape[:2]
    size = min(height, width)
    centre, reach = (width // 2, height // 2), size // 3
    before = [(centre[0] + right * reach, centre[1] + down * reach) for right, down in ((1, 1), (1, -1), (-1, -1))]
    after = np.array(before) + draw.uniform(-jitter * size, jitter * size, (3, 2))
    # Which point comes to lie at (x, y): a x + b y + c, solved from the three points that are known.
    solved = np.linalg.solve([[x, y, 1] for x, y in after], np.array(before))
    rows, columns = np.mgrid[:height, :width]
    from_x, from_y = (solved[0, of] * columns + solved[1, of] * rows + solved[2, of] for of in (0, 1))
    image = by_channel(image, lambda channel: map_coordinates(channel, [from_y, from_x], order=1, mode="mirror"))
    if amount == 0:
        return image
    drawn = draw.uniform(-1, 1, (height, width, 2))
    right, down = (
        amount * size * gaussian_filter(drawn[..., of], smoothness * size, mode="reflect", truncate=3) for of in (0, 1)
    )
    places = [rows + down, columns + right]
    return by_channel(image, lambda channel: map_coordinates(channel, places, order=1, mode="reflect"))


def pixelate(image, severity, draw):
    share = {1: 0.95, 2: 0.9, 3: 0.85, 4: 0.75, 5: 0.65}[severity]
    height, width = image.shape[:2]
    box = Image.Resampling.BOX
    return by_pillow(
        image, lambda pillow: pillow.resize((int(width * share), int(height * share)), box).resize((width, height), box)
    )


def jpeg_compression(image, severity, draw):
    def compress(pillow):
        file = io.BytesIO()
        pillow.save(file, "JPEG", quality={1: 80, 2: 65, 3: 58, 4: 50, 5: 40}[severity])
        return Image.open(file)

    return by_pillow(image, compress)


def canny(image):
    """Edges between 50 and 150, by the sum of both slopes; what is steep enough to touch an edge belongs to it."""
    padded = np.pad(image, 1, mode="edge")
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    right, down = correlate2d(padded, kernel, mode="valid"), correlate2d(padded, kernel.T, mode="valid")
    steep = np.pad(np.abs(right) + np.abs(down), 1)
    weak, edges = set(), []
    for row, column in np.argwhere(steep > 50):
        x, y = right[row - 1, column - 1], down[row - 1, column - 1]
        angle = np.degrees(np.arctan2(abs(y), abs(x)))
        here = steep[row, column]
        if angle < 22.5:
            kept = steep[row, column - 1] < here >= steep[row, column + 1]
        elif angle > 67.5:
            kept = steep[row - 1, column] < here >= steep[row + 1, column]
        else:
            side = 1 if x * y > 0 else -1
            kept = steep[row - 1, column - side] < here > steep[row + 1, column + side]
        if kept:
            weak.add((row, column))
            if here > 150:
                edges.append((row, column))
    found = set(edges)
    while edges:
        row, column = edges.pop()
        for place in ((row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)):
            if place in weak and place not in found:
                found.add(place)
                edges.append(place)
    return [(row - 1, column - 1) for row, column in found]


def box_blur(image):
    return correlate2d(np.pad(image, 1, mode="reflect"), np.full((3, 3), 1 / 9), mode="valid")


def water(liquid):
    """How much light each drop of a layer of whole numbers in 0–255 gives back, 0–1."""
    edges = np.array(canny(liquid))
    rows, columns = np.mgrid[: liquid.shape[0], : liquid.shape[1]]
    distances = np.hypot(rows[..., np.newaxis] - edges[:, 0], columns[..., np.newaxis] - edges[:, 1]).min(axis=-1)
    levels = (box_blur(np.minimum(distances, 20)) + 1e-6).astype(np.uint8)
    counts = np.bincount(levels.ravel())
    first = counts[np.flatnonzero(counts)[0]]
    equal = np.rint(255 * (np.cumsum(counts) - first) / (levels.size - first))[levels]
    light = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    lit = correlate2d(np.pad(equal, 1, mode="reflect"), light, mode="valid").clip(0, 255)
    shine = liquid * np.rint(box_blur(lit))
    return shine / shine.max()


def spatter(image, severity, draw):
    mean, spread, size, floor, amount = {
        1: (0.62, 0.1, 0.7, 0.7, 0.5),
        2: (0.65, 0.1, 0.8, 0.7, 0.5),
        3: (0.65, 0.3, 1, 0.69, 0.5),
        4: (0.65, 0.1, 0.7, 0.69, 0.6),
        5: (0.65, 0.1, 0.5, 0.68, 0.6),
    }[severity]
    liquid = gaussian_filter(draw.normal(mean, spread, image.shape[:2]), size, mode="nearest")
    liquid[liquid < floor] = 0
    if severity <= 3:
        return image + amount * water(np.floor(255 * liquid))[..., np.newaxis] * np.array([175, 238, 238]) / 255
    mud = gaussian_filter(np.where(liquid > floor, 1.0, 0.0), amount, mode="nearest")
    mud[mud < 0.8] = 0
    return (1 - mud)[..., np.newaxis] * image + mud[..., np.newaxis] * np.array([63, 42, 20]) / 255


def saturate(image, severity, draw):
    factor, added = {1: (0.3, 0), 2: (0.1, 0), 3: (1.5, 0), 4: (2, 0.1), 5: (2.5, 0.2)}[severity]
    return by_hsv(image, lambda hue, saturation, value: (hue, min(factor * saturation + added, 1), value))
