"""Inception preprocessing: what a training image goes through, at random."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

from qmnv3.data.transform import RESAMPLING
from qmnv3.preprocessing import Preprocessing

_TRIES = 10
# As in TensorFlow's Inception preprocessing (slim), on pixels in [0, 255].
_BRIGHTNESS, _SATURATION, _HUE, _CONTRAST = 32.0, (0.5, 1.5), 0.2, (0.5, 1.5)


@dataclass(frozen=True)
class Augmentation:
    """A crop of a random share of the area (uniform) and aspect (log-uniform), flip, colour distortion.

    `resolution` is the side of the result in pixels, None that of the evaluated images. `shift` instead moves
    the image by up to so many pixels each way, edges repeated, before the crop.
    """

    resolution: int | None = None
    min_area: float = 0.08
    min_aspect: float = 3 / 4
    max_aspect: float = 4 / 3
    flip: bool = True
    colour: bool = True
    shift: int = 0


def augment(
    image: npt.NDArray[np.uint8],
    spec: Preprocessing,
    augmentation: Augmentation,
    generator: np.random.Generator,
) -> npt.NDArray[np.uint8]:
    """uint8 RGB [H, W, 3] to [side, side, 3], yet to be normalised; `spec` says the filter and the side."""
    if augmentation.shift:
        image = _shifted(image, augmentation.shift, generator)
    side = augmentation.resolution or spec.resolution
    box = random_box(image.shape[1], image.shape[0], augmentation, generator)
    picture = Image.fromarray(image).resize((side, side), RESAMPLING[spec.interpolation], box)
    if augmentation.flip and generator.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if augmentation.colour:
        picture = _distorted(picture, generator)
    return np.asarray(picture)


def random_box(
    width: int, height: int, augmentation: Augmentation, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a random crop; after ten that do not fit, the largest centred one."""
    low, high = math.log(augmentation.min_aspect), math.log(augmentation.max_aspect)
    for _ in range(_TRIES):
        area = width * height * generator.uniform(augmentation.min_area, 1.0)
        aspect = math.exp(generator.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(generator.integers(width - w + 1)), int(generator.integers(height - h + 1))
            return left, top, left + w, top + h
    w = min(width, round(height * augmentation.max_aspect))
    h = min(height, round(width / augmentation.min_aspect))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _shifted(
    image: npt.NDArray[np.uint8], most: int, generator: np.random.Generator
) -> npt.NDArray[np.uint8]:
    padded = np.pad(image, ((most, most), (most, most), (0, 0)), mode="edge")
    top, left = generator.integers(0, 2 * most + 1, 2)
    return padded[top : top + image.shape[0], left : left + image.shape[1]]


def _distorted(picture: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Brightness, saturation, hue and contrast, each by a random amount."""
    delta = generator.uniform(-_BRIGHTNESS, _BRIGHTNESS)
    picture = picture.point(_levels(1.0, delta) * 3)
    picture = ImageEnhance.Color(picture).enhance(generator.uniform(*_SATURATION))
    turn = round(generator.uniform(-_HUE, _HUE) * 256)
    hue, saturation, value = picture.convert("HSV").split()
    hue = hue.point([(level + turn) % 256 for level in range(256)])
    picture = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    factor = generator.uniform(*_CONTRAST)
    means = np.asarray(picture).mean((0, 1))
    return picture.point([level for mean in means for level in _levels(factor, mean - factor * mean)])


def _levels(factor: float, offset: float) -> list[int]:
    """What each of the 256 levels becomes: factor * level + offset, saturated."""
    levels: list[int] = np.rint(np.clip(factor * np.arange(256.0) + offset, 0, 255)).astype(int).tolist()
    return levels
