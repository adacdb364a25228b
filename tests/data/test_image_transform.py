import numpy as np
import pytest
from PIL import Image

from qmnv3.data import preprocess
from qmnv3.preprocessing import Preprocessing

PLAIN = Preprocessing(resolution=4, resize=6, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def numbered(height: int, width: int) -> np.ndarray:
    return np.arange(height * width * 3, dtype=np.int64).reshape(height, width, 3).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 6), (6, 6), (6, 9)])
def test_images_stored_near_the_resolution_are_only_cropped(height: int, width: int) -> None:
    image = numbered(height, width)
    top, left = (height - 4) // 2, (width - 4) // 2
    wanted = image[top : top + 4, left : left + 4].astype(np.float32) / 255
    assert np.array_equal(preprocess(image, PLAIN), wanted)


def test_227_is_cropped_for_224_and_256() -> None:
    image = np.random.default_rng(0).integers(0, 256, (227, 227, 3), np.uint8)
    pixels = preprocess(image, Preprocessing(mean=(0, 0, 0), std=(1, 1, 1))) * 255
    assert np.array_equal(np.rint(pixels), image[1:225, 1:225])


@pytest.mark.parametrize(("height", "width", "scaled"), [(12, 24, (12, 6)), (12, 7, (6, 10)), (3, 3, (6, 6))])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_others_are_resized_by_the_short_side(
    height: int, width: int, scaled: tuple[int, int], interpolation: str
) -> None:
    spec = Preprocessing(4, 6, (0, 0, 0), (1, 1, 1), interpolation)  # type: ignore[arg-type]
    image = numbered(height, width)
    resample = Image.Resampling[interpolation.upper()]
    resized = np.asarray(Image.fromarray(image).resize(scaled, resample))
    top, left = (resized.shape[0] - 4) // 2, (resized.shape[1] - 4) // 2
    wanted = resized[top : top + 4, left : left + 4]
    assert np.array_equal(np.rint(preprocess(image, spec) * 255), wanted)


def test_downscaling_is_antialiased() -> None:
    # One-pixel stripes average to grey; sampling without a filter would keep black or white.
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, ::2] = 255
    grey = preprocess(stripes, PLAIN)
    assert np.abs(grey - 0.5).max() < 0.06


def test_normalisation_is_per_channel() -> None:
    spec = Preprocessing(1, 1, (0.5, 0.0, 1.0), (0.5, 0.25, 2.0))
    pixels = preprocess(np.full((1, 1, 3), 255, np.uint8), spec)
    assert pixels.dtype == np.float32 and pixels.tolist() == [[[1.0, 4.0, 0.0]]]
