"""Image folders and image files, through ptq and eval."""

import json
import shutil
from io import BytesIO
from pathlib import Path

import pytest
from cli_command import Cli, assert_refused, spawn, untouched
from PIL import Image

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# JPEG moves a solid colour by this many 8-bit steps at most, float32 normalisation by nothing visible.
JPEG_STEPS = 3.0
EXACT = 0.01

Colour = tuple[float, float, float]


def ptq(cli: Cli, calib: Path, out: Path, *options: object, model: str = "user_nets:tiny") -> object:
    return cli("ptq", "--model", model, "--calib", calib, "--out", out, *options)


def only(image: Image.Image, folder: Path, name: str, **options: object) -> Path:
    folder.mkdir(parents=True)
    image.save(folder / name, **options)
    return folder


def observed(out: Path) -> tuple[float, float]:
    """Range of the first layer's output over all calibration images."""
    report = json.loads((out / "calibration.json").read_text())
    row = next(row for row in report["layers"] if row["kind"] == "layer")
    return row["observed_low"], row["observed_high"]


def normalised(colour: Colour) -> list[float]:
    return [(v / 255 - m) / s for v, m, s in zip(colour, IMAGENET_MEAN, IMAGENET_STD, strict=True)]


def test_missing_folder(cli: Cli, tmp_path: Path, exported: Path) -> None:
    with untouched(tmp_path):
        assert_refused(ptq(cli, tmp_path / "gone", tmp_path / "RUN"), f"{tmp_path / 'gone'}: no such folder")
        done = cli("eval", exported / "model_int8.tflite", "--data", tmp_path / "gone")
        assert_refused(done, f"{tmp_path / 'gone'}: no such folder")


def test_empty_folder(cli: Cli, tmp_path: Path, exported: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with untouched(tmp_path):
        assert_refused(ptq(cli, empty, tmp_path / "RUN"), f"{empty}: no images")
        done = cli("eval", exported / "model_int8.onnx", "--data", empty, "--json", tmp_path / "r.json")
        assert_refused(done, str(empty), "no class sub-folders")


def test_class_folders_without_images(cli: Cli, tmp_path: Path, run: Path) -> None:
    (tmp_path / "set" / "cat").mkdir(parents=True)
    (tmp_path / "set" / "cat" / "notes.txt").write_text("no image")
    assert_refused(cli("eval", run, "--data", tmp_path / "set"), "no images")
    assert_refused(ptq(cli, tmp_path / "set", tmp_path / "RUN"), "no images")


def test_class_folders_are_needed_by_eval_but_not_by_ptq(
    cli: Cli, tmp_path: Path, photos: Path, exported: Path
) -> None:
    flat = photos / "cat"
    done = cli("eval", exported / "model_int8.tflite", "--data", flat)
    assert_refused(done, str(flat), "3 images but no class sub-folders", "<folder>/<class>/<image>.jpg")
    assert ptq(cli, flat, tmp_path / "RUN", "--images", 3).code == 0
    assert (tmp_path / "RUN" / "run.json").is_file()


def test_more_class_folders_than_outputs(cli: Cli, tmp_path: Path, photos: Path, run: Path) -> None:
    shutil.copytree(photos, tmp_path / "set")
    shutil.copytree(photos / "cat", tmp_path / "set" / "emu")
    assert_refused(cli("eval", run, "--data", tmp_path / "set"), "'emu' is not a label of the model")


def test_single_image_instead_of_a_folder(cli: Cli, tmp_path: Path, photos: Path, run: Path) -> None:
    image = photos / "cat" / "0.png"
    with untouched(tmp_path):
        assert_refused(ptq(cli, image, tmp_path / "RUN"), f"{image}: is a file, not a folder")
    assert_refused(cli("eval", run, "--data", image), f"{image}: is a file, not a folder")


@pytest.fixture
def damaged(tmp_path: Path, photos: Path) -> Path:
    """The photos with an empty, a corrupt and a truncated one among them."""
    folder = shutil.copytree(photos, tmp_path / "damaged")
    buffer = BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "JPEG")
    (folder / "cat" / "corrupt.jpg").write_bytes(b"not an image")
    (folder / "cat" / "empty.png").touch()
    (folder / "dog" / "truncated.jpg").write_bytes(buffer.getvalue()[: buffer.tell() // 2])
    return folder


@pytest.mark.parametrize("name", ["cat/corrupt.jpg", "cat/empty.png", "dog/truncated.jpg"])
def test_damaged_image_is_named(cli: Cli, tmp_path: Path, damaged: Path, run: Path, name: str) -> None:
    for other in {"cat/corrupt.jpg", "cat/empty.png", "dog/truncated.jpg"} - {name}:
        (damaged / other).unlink()
    with untouched(tmp_path):
        text = f"{damaged / name}: corrupt image"
        assert_refused(ptq(cli, damaged, tmp_path / "RUN"), text, "--skip-bad")
        done = cli("eval", run, "--data", damaged, "--json", tmp_path / "r.json")
        assert_refused(done, text, "--skip-bad")


def test_skip_bad_counts_images_held_out_too(cli: Cli, tmp_path: Path, damaged: Path) -> None:
    done = ptq(cli, damaged, tmp_path / "RUN", "--images", 5, "--skip-bad", "--target-drop", 100)
    assert done.code == 0 and "3 images could not be read, left out" in done.stderr
    assert len(json.loads((tmp_path / "RUN" / "run.json").read_text())["skipped_images"]) == 3


def test_skip_bad_counts_damaged_images(cli: Cli, tmp_path: Path, damaged: Path, run: Path) -> None:
    done = ptq(cli, damaged, tmp_path / "RUN", "--images", 9, "--skip-bad")
    assert done.code == 0 and "3 images could not be read, left out" in done.stderr
    record = json.loads((tmp_path / "RUN" / "run.json").read_text())
    names = {Path(path).name for path in record["skipped_images"]}
    assert names == {"corrupt.jpg", "empty.png", "truncated.jpg"}
    done = cli("eval", run, "--data", damaged, "--skip-bad", "--json", tmp_path / "r.json")
    assert done.code == 0 and "skipped 3 unreadable images" in done.stdout
    assert len(json.loads((tmp_path / "r.json").read_text())["skipped"]) == 3


def test_nothing_but_damaged_images(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "set" / "cat").mkdir(parents=True)
    (tmp_path / "set" / "cat" / "corrupt.jpg").write_bytes(b"not an image")
    with untouched(tmp_path):
        done = ptq(cli, tmp_path / "set", tmp_path / "RUN", "--skip-bad")
        assert_refused(done, "none of 1 images can be read", "corrupt.jpg")


@pytest.mark.parametrize(
    ("name", "image", "colour", "steps"),
    [
        ("grey.png", Image.new("L", (40, 40), 77), (77, 77, 77), EXACT),
        # Full cyan ink and no other.
        ("ink.jpg", Image.new("CMYK", (40, 40), (255, 0, 0, 0)), (0, 255, 255), JPEG_STEPS),
        # A fifth opaque black on white.
        ("glass.png", Image.new("RGBA", (40, 40), (0, 0, 0, 51)), (204, 204, 204), EXACT),
        ("deep.png", Image.new("I;16", (40, 40), 77 * 257), (77, 77, 77), EXACT),
        ("dot.png", Image.new("RGB", (1, 1), (9, 99, 199)), (9, 99, 199), EXACT),
    ],
)
def test_unusual_images_are_converted(
    cli: Cli, tmp_path: Path, name: str, image: Image.Image, colour: Colour, steps: float
) -> None:
    folder = only(image, tmp_path / "set", name)
    assert ptq(cli, folder, tmp_path / "RUN", model="user_nets:pixels").code == 0
    low, high = observed(tmp_path / "RUN")
    wanted = normalised(colour)
    # One 8-bit step is 1 / 255 / std.
    tolerance = steps / 255 / min(IMAGENET_STD)
    assert abs(low - min(wanted)) < tolerance and abs(high - max(wanted)) < tolerance


def test_rotated_image_is_turned_upright(cli: Cli, tmp_path: Path) -> None:
    halves = Image.new("RGB", (40, 40))
    halves.paste((255, 255, 255), (0, 20, 40, 40))
    turned = Image.Exif()
    turned[0x0112] = 6  # EXIF orientation: turn by 90 degrees, so the step is from left to right
    plain = only(halves, tmp_path / "plain", "a.png")
    rotated = only(halves, tmp_path / "rotated", "a.png", exif=turned)
    for folder in (plain, rotated):
        assert (
            ptq(cli, folder, folder.parent / f"RUN_{folder.name}", model="user_nets:vertical_steps").code == 0
        )
    assert observed(tmp_path / "RUN_plain")[0] < -0.1
    assert observed(tmp_path / "RUN_rotated") == (0.0, 0.0)


def test_names_with_spaces_and_other_scripts(cli: Cli, tmp_path: Path, photos: Path) -> None:
    folder = shutil.copytree(photos, tmp_path / "mes photos d'été" / "写真")
    (folder / "cat").rename(folder / "кот %s [b]")
    out = tmp_path / "ein Lauf" / "größe"
    assert ptq(cli, folder, out, "--images", 2).code == 0
    assert cli("export", "--int8", "--checkpoint", out, "--out", out.parent / "å").code == 0
    done = cli("eval", out.parent / "å" / "model_int8.tflite", "--data", folder)
    assert done.code == 0, done.stderr
    assert cli("inspect", out).code == 0


def test_name_that_is_not_unicode(cli: Cli, tmp_path: Path, photos: Path) -> None:
    folder = tmp_path / "set"
    (folder / "cat").mkdir(parents=True)
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    try:
        shutil.copy(photos / "cat" / "0.png", folder / "cat" / name)
    except OSError:
        pytest.skip("this file system takes only Unicode names")
    (folder / "cat" / f"bad{name}").touch()
    done = ptq(cli, folder, tmp_path / f"RUN{name}", "--skip-bad")
    assert done.code == 0 and "1 image could not be read" in done.stderr, done.stderr
    assert_refused(ptq(cli, folder, tmp_path / "RUN"), "corrupt image")
    shown = spawn("inspect", tmp_path / f"RUN{name}")
    assert shown.code == 0 and shown.stderr == ""
    assert_refused(spawn("inspect", tmp_path / f"gone{name}"), "gonecaf", "not a RUN folder")


def test_name_of_two_lines(cli: Cli, tmp_path: Path) -> None:
    assert_refused(ptq(cli, tmp_path / "two\nlines", tmp_path / "RUN"), "two lines: no such folder")
