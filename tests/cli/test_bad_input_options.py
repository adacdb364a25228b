"""Recipes and options."""

from pathlib import Path

import pytest
from cli_command import Cli, assert_refused, spawn, untouched

from recipes import list_recipes


@pytest.fixture
def with_recipe(cli: Cli, tmp_path: Path, photos: Path) -> Cli:
    """`qmnv3 ptq` with a recipe of the text given; nothing may be left."""

    def call(text: str) -> object:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        given = ("--model", "user_nets:tiny", "--calib", photos, "--out", tmp_path / "RUN")
        with untouched(tmp_path):
            return cli("ptq", *given, "--recipe", path)

    return call


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagess: 3", "unknown key 'imagess'; did you mean 'images'?"),
        ("activations:\n  observr: mse", "unknown key 'activations.observr'; did you mean 'observer'?"),
        ("zzz: 1", "unknown key 'zzz'; valid keys are level, images, held_out, seed"),
        ("1: 2", "1: Keys should be strings"),
        ("images: many", "images: Input should be a valid integer, found 'many'"),
        ("images: 2.5", "images: Input should be a valid integer"),
        ("images: true", "images: Input should be a valid integer, found True"),
        ("images: 0", "images: Input should be greater than or equal to 1, found 0"),
        ("seed: -1", "seed: Input should be greater than or equal to 0, found -1"),
        ("batch_size: -1", "batch_size: Input should be greater than or equal to 1"),
        ("activations: mse", "activations: Input should be a valid dictionary"),
        ("activations:", "activations: Input should be a valid dictionary"),
        ("activations:\n  observer: best", "activations.observer: Input should be 'search'"),
        ("activations:\n  percentile: .nan", "activations.percentile: Input should be"),
        ("level: 6", "level: Input should be less than or equal to 5, found 6"),
        ("level: true", "level: Input should be a valid integer, found True"),
        ("equalization:\n  min_gain: -1", "equalization.min_gain: Input should be greater than"),
        (f"images: {'x' * 5000}", "images: Input should be a valid integer"),
        ("- images", "must hold keys and values, found list"),
        ("images", "must hold keys and values, found str"),
        ("images: 2\nseed: [1", "not valid YAML (line 2"),
        ("images: 2\n\tseed: 1", "not valid YAML (line 2"),
        ('images: !!python/object/apply:os.system ["exit"]', "not valid YAML (line 1: could not determine"),
    ],
)
def test_recipe_that_says_nonsense(with_recipe: Cli, text: str, message: str) -> None:
    done = with_recipe(text)
    assert_refused(done, "mine.yaml: ", message)
    assert len(done.stderr) < 600


def test_recipe_that_is_no_text(cli: Cli, tmp_path: Path, photos: Path) -> None:
    given = ("ptq", "--model", "user_nets:tiny", "--calib", photos, "--out", tmp_path / "RUN", "--recipe")
    assert_refused(cli(*given, photos / "cat" / "0.png"), "0.png: not valid YAML")
    assert_refused(cli(*given, photos), f"{photos}: no such recipe")


def test_unknown_recipe_lists_the_shipped(cli: Cli, tmp_path: Path, photos: Path) -> None:
    given = ("ptq", "--model", "user_nets:tiny", "--calib", photos, "--out", tmp_path / "RUN", "--recipe")
    assert_refused(cli(*given, "nothing"), "nothing: no such recipe", *list_recipes())
    assert_refused(cli(*given, "ptq_minmx"), "did you mean 'ptq_minmax'?")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("ptq", "--images", "0"), "--images"),
        (("ptq", "--images", "-3"), "--images"),
        (("ptq", "--images", "many"), "--images"),
        (("ptq", "--seed", "-1"), "--seed"),
        (("ptq", "--seed", 2**64), "--seed"),
        (("ptq", "--modell", "small"), "--modell"),
        (("ptq",), "Missing option"),
        (("eval",), "Missing"),
        (("eval", "m.tflite", "--data", ".", "--images", "0"), "--images"),
        (("eval", "m.tflite", "--data", ".", "--batch", "0"), "--batch"),
        (("eval", "m.tflite", "--data", ".", "--kernel", "gpu"), "xnnpack"),
        (("eval", "m.tflite", "--data", ".", "--mean", "0.5"), "--mean"),
        (("bench",), "Missing argument"),
        (("bench", "m.tflite", "--runs", "0"), "--runs"),
        (("bench", "m.tflite", "--threads", "0"), "--threads"),
        (("bench", "m.tflite", "--seed", "-1"), "--seed"),
        (("info", "--resolution", "0"), "--resolution"),
        (("info", "--width", "wide"), "--width"),
        (("inspect",), "Missing argument"),
        (("export", "--checkpoint", "RUN"), "Missing option"),
        (("export", "--checkpoint", "RUN", "--out", "o"), "give --int8, --float32 or both"),
        (("export", "--int8", "--checkpoint", "RUN", "--out", "o", "--target", "tpu"), "xnnpack"),
        (("weights", "fetch"), "Missing argument"),
        (("weights", "get"), "No such command"),
        (("quantise",), "No such command"),
    ],
)
def test_usage_errors(cli: Cli, arguments: tuple[object, ...], text: str) -> None:
    done = cli(*arguments)
    assert done.code == 2 and done.stdout == ""
    assert "Error" in done.stderr and text in done.stderr and "Traceback" not in done.stderr


def test_usage_error_in_a_process_of_its_own() -> None:
    done = spawn("ptq", "--images", "0")
    assert done.code == 2 and "--images" in done.stderr and "python -m qmnv3" in done.stderr


def test_sort_order_of_inspect(cli: Cli, run: Path) -> None:
    done = cli("inspect", run, "--sort", "size")
    assert done.code == 2 and "choose network, sqnr, clipped or kl" in done.stderr
