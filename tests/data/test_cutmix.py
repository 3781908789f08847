"""CutMix: the pasted pixels, the labels and λ agree, for every draw."""

import numpy as np
import pytest
import torch
from scipy.stats import beta
from torch.nn import functional as F

from slimresnet.data.randomness import Draws
from slimresnet.data.transforms.cutmix import CutMix, cutmix_boxes, partners
from slimresnet.data.transforms.label_smoothing import LabelSmoothing


def distinct_images(batch_size, height=32, width=24):
    """Every pixel of image i is i (modulo 251): what was pasted from where can be read off."""
    return (torch.arange(batch_size) % 251).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, height, width).contiguous()


def one_hot(labels):
    return F.one_hot(labels, 10).float()


def random_images(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 64, 101])
@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_pasted_pixels_and_labels_match(batch_size, alpha):
    images, labels = distinct_images(batch_size), torch.arange(batch_size) % 10
    before = images.clone()
    cutmix = CutMix(cutmix_prob=1.0, cutmix_alpha=alpha)
    pixels, targets = cutmix(images, one_hot(labels), Draws(0, 0, 0, np.arange(batch_size)))
    partner = partners(batch_size)
    assert pixels.dtype == torch.uint8 and torch.equal(images, before)
    assert targets.dtype == torch.float32 and targets.shape == (batch_size, 10)
    assert torch.equal(targets.sum(dim=1), torch.ones(batch_size))
    for index in range(batch_size):
        pasted = pixels[index].eq(partner[index]).all(dim=0) & (partner[index] != index)
        kept = pixels[index].eq(index).all(dim=0)
        assert (pasted ^ kept).all()
        rows, columns = pasted.any(dim=1).sum(), pasted.any(dim=0).sum()
        assert pasted.sum() == rows * columns  # one rectangle
        share = pasted.float().mean()  # 1 − λ
        expected = (1 - share) * F.one_hot(labels[index], 10) + share * F.one_hot(labels[partner[index]], 10)
        torch.testing.assert_close(targets[index], expected, rtol=0, atol=1e-7)


def test_a_single_sample_stays_as_it_is():
    images = random_images(1, 3, 32, 32)
    pixels, targets = CutMix(1.0, 1.0)(images, one_hot(torch.tensor([4])), Draws(0, 0, 0, np.arange(1)))
    assert torch.equal(pixels, images) and torch.equal(targets, one_hot(torch.tensor([4])))


@pytest.mark.parametrize(
    ("batch_size", "expected"), [(1, [0]), (2, [1, 0]), (5, [1, 0, 3, 2, 3]), (6, [1, 0, 3, 2, 5, 4])]
)
def test_partners(batch_size, expected):
    assert partners(batch_size).tolist() == expected


@pytest.mark.parametrize("alpha", [0.3, 1.0, 3.0])
def test_lambda_follows_theory(alpha):
    """Without clipping, λ is Beta(α, α); the exact share follows from it by clipping at a uniform centre."""
    shape = Draws(0, 0, 0, np.arange(40000)).uniform("cutmix", 3)
    size = 256  # fine enough that whole pixels hardly matter
    centred = shape.copy()
    centred[:, 1:] = 0.5
    top, bottom, left, right = cutmix_boxes(centred, alpha, size, size).T
    lam = 1 - (bottom - top) * (right - left) / size**2
    assert lam.mean() == pytest.approx(0.5, abs=0.01)
    assert lam.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.01)

    top, bottom, left, right = cutmix_boxes(shape, alpha, size, size).T
    assert (top.min(), left.min(), bottom.max(), right.max()) == (0, 0, size, size)
    ratio = np.sqrt(1 - lam)  # a box of side r around a uniform centre keeps r − r²/4 of itself inside
    expected = 1 - ((ratio - ratio**2 / 4) ** 2).mean()
    assert (1 - (bottom - top) * (right - left) / size**2).mean() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 3.0])
def test_a_box_is_as_drawn(alpha):
    """Of an image that is not square, against SciPy's quantiles."""
    shape = Draws(0, 0, 0, np.arange(500)).uniform("cutmix", 3)
    boxes = cutmix_boxes(shape, alpha, 24, 40)
    for box, cut, row, column in zip(
        boxes, np.sqrt(1 - beta.ppf(shape[:, 0], alpha, alpha)), *shape[:, 1:].T, strict=True
    ):
        for size, centre, (first, last) in ((24, int(24 * row), box[:2]), (40, int(40 * column), box[2:])):
            half = int(size * cut) // 2
            assert first == max(centre - half, 0) and last == min(centre + half, size)


def test_probability_is_per_sample():
    images, targets, draws = distinct_images(4000, 8, 8), torch.zeros(4000, 10), Draws(0, 0, 0, np.arange(4000))

    def share_mixed(prob):
        pixels, _ = CutMix(prob, 1.0)(images, targets, draws)
        return (pixels != images).flatten(1).any(dim=1).float().mean().item()

    assert share_mixed(0.25) == pytest.approx(0.25 * share_mixed(1.0), abs=0.02)  # some boxes are empty


def test_nothing_asked_nothing_changed():
    images, targets, draws = random_images(8, 3, 32, 32), one_hot(torch.arange(8)), Draws(0, 0, 0, np.arange(8))
    for transform in (CutMix(0.0, 1.0), LabelSmoothing(0.0)):
        pixels, labels = transform(images, targets, draws)
        assert torch.equal(pixels, images) and torch.equal(labels, targets)


def test_label_smoothing_equals_pytorchs():
    images, labels, logits = random_images(8, 3, 4, 4), torch.arange(8), torch.randn(8, 10)
    pixels, smooth = LabelSmoothing(0.1)(images, one_hot(labels), Draws(0, 0, 0, np.arange(8)))
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(F.cross_entropy(logits, smooth), expected)
    assert torch.equal(pixels, images)


def test_a_pair_is_mixed_the_same_in_any_even_batch():
    images, targets, cutmix = random_images(32, 3, 16, 16), one_hot(torch.arange(32) % 10), CutMix(1.0, 1.0)
    whole = cutmix(images, targets, Draws(3, 1, 64, np.arange(32)))
    parts = [cutmix(images[i : i + 8], targets[i : i + 8], Draws(3, 1, 64 + i, np.arange(8))) for i in range(0, 32, 8)]
    for together, apart in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(torch.cat(apart), together)
