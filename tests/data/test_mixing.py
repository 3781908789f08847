"""CutMix and mixup: the pixels, the labels and λ agree, for every draw, and one number decides between the two."""

import numpy as np
import pytest
import torch
from scipy.stats import beta
from torch.nn import functional as F

from slimresnet.data.randomness import Draws
from slimresnet.data.transforms.cutmix import cutmix_boxes
from slimresnet.data.transforms.label_smoothing import LabelSmoothing
from slimresnet.data.transforms.mixing import Mixing, partners
from slimresnet.data.transforms.mixup import blend, mixup_share
from slimresnet.recipe.checks import RecipeError
from slimresnet.recipe.settings import Recipe


def distinct_images(batch_size, height=32, width=24):
    """Every pixel of image i is i (modulo 251): what was pasted from where can be read off."""
    return (torch.arange(batch_size) % 251).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, height, width).contiguous()


def one_hot(labels):
    return F.one_hot(labels, 10).float()


def mixing(**settings):
    """As a recipe of these settings has it."""
    return Mixing.of(Recipe(**settings))


def random_images(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 64, 101])
@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_pasted_pixels_and_labels_match(batch_size, alpha):
    images, labels = distinct_images(batch_size), torch.arange(batch_size) % 10
    before = images.clone()
    cutmix = mixing(cutmix_prob=1.0, cutmix_alpha=alpha)
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


BOTH = [{"cutmix_prob": 1.0}, {"mixup_prob": 1.0}, {"cutmix_prob": 0.5, "mixup_prob": 0.5}]


@pytest.mark.parametrize("settings", BOTH)
def test_a_single_sample_stays_as_it_is(settings):
    images = random_images(1, 3, 32, 32)
    pixels, targets = mixing(**settings)(images, one_hot(torch.tensor([4])), Draws(0, 0, 0, np.arange(1)))
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
        pixels, _ = mixing(cutmix_prob=prob)(images, targets, draws)
        return (pixels != images).flatten(1).any(dim=1).float().mean().item()

    assert share_mixed(0.25) == pytest.approx(0.25 * share_mixed(1.0), abs=0.02)  # some boxes are empty


def test_nothing_asked_nothing_changed():
    images, targets, draws = random_images(8, 3, 32, 32), one_hot(torch.arange(8)), Draws(0, 0, 0, np.arange(8))
    for transform in (mixing(), LabelSmoothing(0.0)):
        pixels, labels = transform(images, targets, draws, 0.1)
        assert torch.equal(pixels, images) and torch.equal(labels, targets)


def test_label_smoothing_equals_pytorchs():
    images, labels, logits = random_images(8, 3, 4, 4), torch.arange(8), torch.randn(8, 10)
    pixels, smooth = LabelSmoothing(0.1)(images, one_hot(labels), Draws(0, 0, 0, np.arange(8)), 0.1)
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(F.cross_entropy(logits, smooth), expected)
    assert torch.equal(pixels, images)


@pytest.mark.parametrize("settings", BOTH)
def test_a_pair_is_mixed_the_same_in_any_even_batch(settings):
    images, targets, mix = random_images(32, 3, 16, 16), one_hot(torch.arange(32) % 10), mixing(**settings)
    whole = mix(images, targets, Draws(3, 1, 64, np.arange(32)))
    parts = [mix(images[i : i + 8], targets[i : i + 8], Draws(3, 1, 64 + i, np.arange(8))) for i in range(0, 32, 8)]
    for together, apart in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(torch.cat(apart), together)


# --- mixup ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_a_blended_image_and_its_label_have_the_share_that_was_drawn(alpha):
    """Against NumPy in float64 and SciPy's quantiles."""
    images, labels = random_images(101, 3, 9, 7), torch.arange(101) % 10
    before, draws = images.clone(), Draws(0, 0, 0, np.arange(101))
    pixels, targets = mixing(mixup_prob=1.0, mixup_alpha=alpha)(images, one_hot(labels), draws)
    assert pixels.dtype == torch.uint8 and torch.equal(images, before)
    assert targets.dtype == torch.float32 and torch.equal(targets.sum(dim=1), torch.ones(101))
    share = 1 - beta.ppf(draws.uniform("cutmix", 4)[:, 1], alpha, alpha)
    assert share.min() < 0.2 and share.max() > 0.8
    for index in range(101):
        other = 99 if index == 100 else index ^ 1
        blended = (1 - share[index]) * images[index].numpy() + share[index] * images[other].numpy()
        assert np.abs(pixels[index].numpy() - blended).max() <= 0.5001  # rounded to the nearest
        expected = (1 - share[index]) * np.eye(10)[labels[index]] + share[index] * np.eye(10)[labels[other]]
        np.testing.assert_allclose(targets[index], expected, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0, 3.0, 1e9, 1e300])
def test_the_share_of_the_other_image_is_beta(alpha):
    share = mixup_share(Draws(0, 0, 0, np.arange(40000)).uniform("cutmix", 1)[:, 0], alpha)
    assert share.dtype == np.float32 and share.min() >= 0 and share.max() <= 1
    assert share.mean() == pytest.approx(0.5, abs=0.01)
    assert share.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.003)


def test_a_blend_goes_from_the_one_image_to_the_other():
    one, other = (torch.full((5, 1, 1, 2), value, dtype=torch.uint8) for value in (10, 13))
    blended = blend(one, other, torch.tensor([[0.0], [0.1], [0.2], [0.7], [1.0]]))
    assert blended[:, 0, 0].tolist() == [[value, value] for value in (10, 10, 11, 12, 13)]


def kinds_of(pixels, images):
    """By sample: whether each pixel is its own, its neighbour's, or between. A sample may be of several kinds."""
    others = images[partners(len(images))]
    own, others_ = ((pixels == each).flatten(1).all(dim=1) for each in (images, others))
    patch = ((pixels == images) | (pixels == others)).flatten(1).all(dim=1)
    return own, patch & ~own & ~others_, ~patch


def test_an_image_gets_cutmix_or_mixup_or_neither_by_one_number():
    """Each takes from its neighbour as it was before."""
    images = (torch.arange(4000) % 2 * 200 + 20).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 16, 16).contiguous()
    targets, draws = one_hot(torch.arange(4000) % 2), Draws(0, 0, 0, np.arange(4000))
    both = mixing(cutmix_prob=0.25, mixup_prob=0.35, mixup_alpha=3.0)
    pixels, labels = both(images, targets, draws)
    chance = torch.from_numpy(draws.uniform("cutmix", 4)[:, 0])
    gets_cutmix, gets_mixup = chance < 0.25, (chance >= 0.25) & (chance < 0.6)
    own, patched, between = kinds_of(pixels, images)
    assert torch.equal(between, gets_mixup) and gets_mixup.float().mean().item() == pytest.approx(0.35, abs=0.03)
    assert (own | gets_cutmix)[~gets_mixup].all() and not (patched & ~gets_cutmix).any()
    assert patched[gets_cutmix].float().mean() > 0.9  # some boxes are empty or whole
    # A blended image is of one brightness, and so says its share: of two images of 20 and 220, none was mixed before.
    share = (pixels[:, 0, 0, 0].float() - 20) / 200
    torch.testing.assert_close(labels[gets_mixup, 1], share[gets_mixup], rtol=0, atol=0.003)
    assert torch.equal(labels.sum(dim=1), torch.ones(4000)) and torch.equal(labels[own], targets[own])
    # Where an image gets CutMix, it gets what CutMix alone gives, bit for bit.
    alone = mixing(cutmix_prob=0.25)(images, targets, draws)
    assert torch.equal(alone[0][gets_cutmix], pixels[gets_cutmix])
    assert torch.equal(alone[1][gets_cutmix], labels[gets_cutmix])


def test_every_image_is_mixed_where_the_probabilities_are_1_together():
    images, targets = random_images(2000, 3, 8, 8), one_hot(torch.arange(2000) % 10)
    draws = Draws(0, 0, 0, np.arange(2000))
    _, labels = mixing(cutmix_prob=0.3, mixup_prob=0.7)(images, targets, draws)
    chance = draws.uniform("cutmix", 4)[:, 0]
    assert (labels[chance >= 0.3] != targets[chance >= 0.3]).any(dim=1).all()


def test_probabilities_above_1_together_are_refused():
    for cutmix_prob, mixup_prob in ((0.7, 0.3), (0.9, 0.1), (1, 0), (0.35, 0.65)):
        Recipe(cutmix_prob=cutmix_prob, mixup_prob=mixup_prob)
    with pytest.raises(RecipeError) as error:
        Recipe(cutmix_prob=0.7, mixup_prob=0.5)
    assert str(error.value) == (
        "--cutmix_prob 0.7 and --mixup_prob 0.5 are more than 1 together, and an image gets one of the two: lower one."
    )
