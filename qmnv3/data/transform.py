"""8-bit RGB to what a model reads."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from qmnv3.preprocessing import Preprocessing

FloatImage = npt.NDArray[np.float32]

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def preprocess(image: npt.NDArray[np.uint8], spec: Preprocessing) -> FloatImage:
    """Resize, centre-crop and normalise uint8 RGB [H, W, 3] to float32 [resolution, resolution, 3].

    The short side is scaled to `spec.resize` with an antialiased filter, except that an image whose short
    side already lies in [resolution, resize] is only cropped: such sets were resized when they were made.
    """
    return normalise(_centre_crop(_resize_short_side(image, spec), spec.resolution), spec)


def normalise(image: npt.NDArray[np.uint8], spec: Preprocessing) -> FloatImage:
    """uint8 RGB to float32, `(pixel / 255 - mean) / std` per channel."""
    height, width, channels = image.shape
    # Whole rows at a time: numpy is slow in loops over three channels.
    mean, std = (np.tile(np.asarray(values, np.float32), width) for values in (spec.mean, spec.std))
    normalised: FloatImage = image.reshape(height, width * channels).astype(np.float32)
    normalised /= np.float32(255)
    normalised -= mean
    normalised /= std
    return normalised.reshape(image.shape)


def _resize_short_side(image: npt.NDArray[np.uint8], spec: Preprocessing) -> npt.NDArray[np.uint8]:
    height, width = image.shape[:2]
    short = min(height, width)
    if spec.resolution <= short <= spec.resize:
        return image
    # The long side rounds down, as torchvision's Resize does.
    size = (width * spec.resize // short, height * spec.resize // short)
    return np.asarray(Image.fromarray(image).resize(size, RESAMPLING[spec.interpolation]))


def _centre_crop(image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return image[top : top + side, left : left + side]
