"""Image files to 8-bit RGB."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from qmnv3.errors import ImageError

RgbImage = npt.NDArray[np.uint8]

MAX_PIXELS = 89_478_485  # Pillow's own decompression-bomb limit
MAX_ASPECT = 100
# Decoding at 1/2, 1/4 or 1/8 keeps at least this many source pixels per pixel of the resized image.
DRAFT_OVERSAMPLING = 2

# decode() refuses what Pillow only warns about, and says so in one line.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def read_image(path: Path) -> bytes:
    """An image file as it is; ImageError naming it where it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such image; restore it") from error
    except (OSError, MemoryError) as error:
        reason = error.strerror if isinstance(error, OSError) else "too large for the memory"
        raise ImageError(f"{path}: {reason}; remove it") from error


def decode(path: Path, short_side: int | None = None, data: bytes | None = None) -> RgbImage:
    """Decode one image to uint8 RGB [H, W, 3], turned upright as its EXIF orientation says.

    Greyscale, palette and CMYK are converted, transparency is laid on white, 16-bit values are scaled
    (v / 257). Of several frames the first counts. `short_side`: the image will be resized to this many
    pixels, so a much larger JPEG may be decoded at a fraction of its size. `data`: what is in the file, if
    it was read already. Raises ImageError naming the file if it is missing, corrupt, truncated, over
    `MAX_PIXELS` or longer than `MAX_ASPECT` times its width.
    """
    file = io.BytesIO(read_image(path) if data is None else data)
    try:
        with Image.open(file) as image:
            _check_size(path, image.size)
            if short_side is not None:
                side = DRAFT_OVERSAMPLING * short_side
                image.draft(None, (side, side))
            return _to_rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    # Pillow's decoders raise nearly anything on damaged files (SyntaxError, struct.error, IndexError, ...).
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "not an image format Pillow knows"
        raise ImageError(f"{path}: corrupt image ({reason}); remove it") from error


def _check_size(path: Path, size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{path}: {width}x{height} pixels is over the limit of {MAX_PIXELS}; scale it down")
    if max(size) > MAX_ASPECT * min(size):
        raise ImageError(f"{path}: {width}x{height} is too elongated to centre-crop; remove it")


def _to_rgb(image: Image.Image) -> RgbImage:
    if image.mode.startswith("I") or image.mode == "F":
        return _wide_to_rgb(np.asarray(image))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        image = Image.alpha_composite(white, rgba)
    return np.asarray(image.convert("RGB"))


def _wide_to_rgb(values: npt.NDArray[Any]) -> RgbImage:
    # Pillow's own convert("RGB") clips these modes at 255, which turns a photo white.
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"{values.dtype} pixels outside 0..65535; save as 8 or 16 bits per channel")
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
