"""Augmentation: geometry by Pillow, colours by colorsys, shares by counting."""

import colorsys

import numpy as np
import pytest
from PIL import Image

from qmnv3.data.augment import Augmentation, augment, random_box
from qmnv3.preprocessing import Preprocessing

SPEC = Preprocessing(32, 32, (0.5,) * 3, (0.5,) * 3)
PLAIN = Augmentation(min_area=1.0, min_aspect=1.0, max_aspect=1.0, flip=False, colour=False)


def picture(height: int = 40, width: int = 56, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def pixels(image: np.ndarray) -> np.ndarray:
    assert image.dtype == np.uint8
    return image.astype(int)  # differences may be negative


def test_crops_have_the_asked_areas_and_aspects() -> None:
    generator = np.random.default_rng(0)
    wanted = Augmentation(min_area=0.25)
    boxes = np.array([random_box(400, 300, wanted, generator) for _ in range(2000)])
    left, top, right, bottom = boxes.T
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= 400 and bottom.max() <= 300
    width, height = right - left, bottom - top
    area, aspect = width * height / 120_000, width / height
    assert 0.245 < area.min() < 0.27 and 0.9 < area.max() <= 1.0
    assert 0.74 < aspect.min() < 0.78 and 1.29 < aspect.max() < 1.345
    assert 0.45 < (np.log(aspect) > 0).mean() < 0.65


def test_a_shape_that_no_crop_fits_is_cropped_in_the_middle() -> None:
    box = random_box(1000, 10, Augmentation(min_area=1.0), np.random.default_rng(0))
    assert box == (493, 0, 506, 10)


def test_the_crop_is_pillows() -> None:
    image = picture(40, 40)
    expected = Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)
    found = augment(image, SPEC, PLAIN, np.random.default_rng(0))
    np.testing.assert_array_equal(pixels(found), np.asarray(expected))


def test_training_images_may_be_smaller_than_evaluated_ones() -> None:
    image = picture()
    small = Augmentation(16, min_area=1.0, min_aspect=1.0, max_aspect=1.0, flip=False, colour=False)
    box = random_box(56, 40, small, np.random.default_rng(3))
    expected = Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR, box)
    found = augment(image, SPEC, small, np.random.default_rng(3))
    np.testing.assert_array_equal(pixels(found), np.asarray(expected))


def test_half_of_the_images_are_flipped() -> None:
    image = picture(32, 32)
    flipping = Augmentation(min_area=1.0, min_aspect=1.0, max_aspect=1.0, colour=False)
    plain = pixels(augment(image, SPEC, PLAIN, np.random.default_rng(0)))
    flips = 0
    for seed in range(200):
        found = pixels(augment(image, SPEC, flipping, np.random.default_rng(seed)))
        flipped = np.array_equal(found, plain[:, ::-1])
        assert flipped or np.array_equal(found, plain)
        flips += flipped
    assert 80 < flips < 120


def test_colours_turn_by_at_most_a_fifth_of_the_circle() -> None:
    """A plain colour: brightness 32/255, saturation and contrast 0.5 to 1.5 (of a plain colour: none)."""
    image = np.full((32, 32, 3), (200, 90, 60), np.uint8)
    colouring = Augmentation(min_area=1.0, min_aspect=1.0, max_aspect=1.0, flip=False)
    turns, values = [], []
    hue, _, value = colorsys.rgb_to_hsv(200 / 255, 90 / 255, 60 / 255)
    for seed in range(300):
        found = pixels(augment(image, SPEC, colouring, np.random.default_rng(seed)))
        assert np.ptp(found, (0, 1)).max() == 0
        h, _, v = colorsys.rgb_to_hsv(*(found[0, 0] / 255))
        turns.append((h - hue + 0.5) % 1 - 0.5)
        values.append(v - value)
    assert -0.22 < min(turns) < -0.17 and 0.17 < max(turns) < 0.22
    assert abs(np.mean(turns)) < 0.03 and -0.4 < min(values) < -0.1 < 0.1 < max(values) < 0.4


def test_contrast_moves_pixels_from_their_mean() -> None:
    image = picture(32, 32)
    colouring = Augmentation(min_area=1.0, min_aspect=1.0, max_aspect=1.0, flip=False)
    before = pixels(augment(image, SPEC, PLAIN, np.random.default_rng(0))).std()
    after = [pixels(augment(image, SPEC, colouring, np.random.default_rng(s))).std() for s in range(60)]
    assert min(after) < 0.7 * before and max(after) > 1.15 * before


def test_a_shift_moves_the_whole_image_and_repeats_its_edge() -> None:
    image = picture(32, 32)
    shifting = Augmentation(min_area=1.0, min_aspect=1.0, max_aspect=1.0, flip=False, colour=False, shift=2)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
    moved = {padded[y : y + 32, x : x + 32].tobytes() for y in range(5) for x in range(5)}
    found = {
        pixels(augment(image, SPEC, shifting, np.random.default_rng(seed))).astype(np.uint8).tobytes()
        for seed in range(200)
    }
    assert found <= moved and len(found) > 20


@pytest.mark.parametrize("shape", [(1, 1), (500, 3), (32, 32)])
def test_any_shape_gives_the_resolution(shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    assert augment(image, SPEC, Augmentation(), np.random.default_rng(0)).shape == (32, 32, 3)
