from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qmnv3.data import decode
from qmnv3.data.decode import MAX_PIXELS
from qmnv3.errors import DataError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
# JPEG and the CMYK round trip may move a solid colour by a little.
JPEG_TOLERANCE = 3


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def photo(width: int, height: int) -> Image.Image:
    """Smooth colours with some detail, like a photograph."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 100 * np.sin(x / a) * np.cos(y / b) for a, b in ((37, 53), (71, 29), (90, 110))]
    return Image.fromarray(np.stack(waves, -1).astype(np.uint8))


def test_rgb_png_is_exact(tmp_path: Path) -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert np.array_equal(decode(save(Image.fromarray(pixels), tmp_path / "a.png")), pixels)


@pytest.mark.parametrize(("mode", "value"), [("L", 77), ("1", 1)])
def test_greyscale_becomes_three_equal_channels(tmp_path: Path, mode: str, value: int) -> None:
    pixels = decode(save(Image.new(mode, (3, 2), value), tmp_path / "grey.png"))
    assert pixels.shape == (2, 3, 3)
    assert (pixels == (255 if mode == "1" else 77)).all()


def test_cmyk_jpeg(tmp_path: Path) -> None:
    # Full cyan and no other ink is (0, 255, 255).
    path = save(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), tmp_path / "ink.jpg", quality=100)
    assert np.abs(decode(path).astype(int) - (0, 255, 255)).max() <= JPEG_TOLERANCE


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    rgba = Image.new("RGBA", (2, 1))
    rgba.putpixel((0, 0), (255, 0, 0, 0))
    rgba.putpixel((1, 0), (0, 0, 0, 51))  # a fifth black on white: 255 * 4/5
    pixels = decode(save(rgba, tmp_path / "a.png"))
    assert pixels.tolist() == [[[255, 255, 255], [204, 204, 204]]]


def test_grey_with_alpha_is_laid_on_white(tmp_path: Path) -> None:
    image = Image.new("LA", (1, 1), (0, 0))
    assert decode(save(image, tmp_path / "la.png")).tolist() == [[[255, 255, 255]]]


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([*GREEN, *BLUE])
    palette.putpixel((1, 0), 1)
    assert decode(save(palette, tmp_path / "p.png")).tolist() == [[list(GREEN), list(BLUE)]]
    assert decode(save(palette, tmp_path / "t.png", transparency=0)).tolist() == [[list(WHITE), list(BLUE)]]


@pytest.mark.parametrize("suffix", ["png", "tif", "ppm"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 128, 129, 257, 32896, 65535]], np.uint16)
    path = save(Image.fromarray(values), tmp_path / f"deep.{suffix}")
    assert decode(path)[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]
    assert decode(path).shape == (1, 6, 3)


def test_16_bit_rgb_tiff_and_png(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    path.write_bytes(rgb16_png([(65535, 32896, 0), (0, 0, 65535)]))
    assert decode(path).tolist() == [[[255, 128, 0], [0, 0, 255]]]


def rgb16_png(row: list[tuple[int, int, int]]) -> bytes:
    """A one-row PNG of bit depth 16, colour type 2, which Pillow itself cannot write."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    scanline = b"\0" + b"".join(struct.pack(">3H", *pixel) for pixel in row)
    header = struct.pack(">IIBBBBB", len(row), 1, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(scanline)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_float_pixels_without_a_known_range_are_refused(tmp_path: Path) -> None:
    path = save(Image.fromarray(np.zeros((2, 2), np.float32)), tmp_path / "f.tif")
    with pytest.raises(DataError, match=r"f\.tif.*save as 8 or 16 bits"):
        decode(path)


# TIFF/EXIF specification: where row 0, column 0 of the stored image belongs.
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, ["RG", "BW"]),
        (2, ["GR", "WB"]),
        (3, ["WB", "GR"]),
        (4, ["BW", "RG"]),
        (5, ["RB", "GW"]),
        (6, ["BR", "WG"]),
        (7, ["WG", "BR"]),
        (8, ["GW", "RB"]),
    ],
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, upright: list[str]) -> None:
    colours = {"R": RED, "G": GREEN, "B": BLUE, "W": WHITE}
    stored = Image.fromarray(np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8)).resize(
        (32, 32), Image.Resampling.NEAREST
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(stored, tmp_path / "turned.jpg", exif=exif, quality=100, subsampling=0)
    quadrants = decode(path)[8::16, 8::16].astype(int)
    wanted = np.array([[colours[name] for name in row] for row in upright])
    assert np.abs(quadrants - wanted).max() <= JPEG_TOLERANCE


def test_non_square_exif_rotation_swaps_the_sides(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(save(photo(40, 20), tmp_path / "a.jpg", exif=exif)).shape == (40, 20, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM"])
def test_truncated_files_are_named(tmp_path: Path, kind: str) -> None:
    buffer = BytesIO()
    photo(64, 64).save(buffer, kind)
    path = tmp_path / f"half.{kind.lower()}"
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(DataError, match=r"half\.") as caught:
        decode(path)
    assert "\n" not in str(caught.value) and str(caught.value).endswith("; remove it")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_files_that_are_no_images(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.jpg: corrupt image"):
        decode(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such image"):
        decode(tmp_path / "gone.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_500, 20_000])
def test_decompression_bombs(tmp_path: Path, side: int) -> None:
    path = save(Image.new("1", (side, side)), tmp_path / "bomb.png")
    assert side * side > MAX_PIXELS and path.stat().st_size < 100_000
    with pytest.raises(DataError, match=r"bomb\.png"):
        decode(path)


def test_extreme_aspect_ratio(tmp_path: Path) -> None:
    # 1 x 4000 scaled to a short side of 256 would be a gigabyte.
    with pytest.raises(DataError, match="too elongated"):
        decode(save(Image.new("RGB", (1, 4000)), tmp_path / "line.png"))


def test_large_jpeg_is_decoded_smaller_and_looks_the_same(tmp_path: Path) -> None:
    path = save(photo(2400, 1600), tmp_path / "large.jpg", quality=90)
    small, full = decode(path, short_side=256), decode(path)
    assert small.shape == (800, 1200, 3) and full.shape == (1600, 2400, 3)
    size = (384, 256)
    shrunk = [
        np.asarray(Image.fromarray(i).resize(size, Image.Resampling.BILINEAR), int) for i in (small, full)
    ]
    assert np.abs(shrunk[0] - shrunk[1]).mean() < 1
    assert decode(save(photo(300, 300), tmp_path / "s.jpg"), short_side=256).shape == (300, 300, 3)
