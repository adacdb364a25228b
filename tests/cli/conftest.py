"""A small RUN, its exported files and a folder of photos for it, made once by the real command."""

from pathlib import Path

import numpy as np
import pytest
import user_nets
from cli_command import MODEL, Cli, Finished, run_main, spawn
from PIL import Image
from safetensors.torch import save_file


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run the command in this process; what C++ libraries print is captured too."""

    def run(*arguments: object) -> Finished:
        capfd.readouterr()
        code = run_main(*arguments)
        return Finished(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three noisy images in each of two class folders."""
    root = tmp_path_factory.mktemp("photos") / "set"
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for index in range(3):
            pixels = generator.integers(0, 256, (40, 48, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of user_nets:tiny whose metadata asks for small images."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(user_nets.tiny().state_dict(), path, {"resolution": "32"})
    return path


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, photos: Path, weights: Path) -> Path:
    """A RUN of a two-class network; copy it before changing it."""
    path = tmp_path_factory.mktemp("run") / "RUN"
    given = ("--model", "user_nets:tiny", "--weights", weights, "--calib", photos)
    assert run_main("ptq", *given, "--out", path, "--images", 2) == 0
    return path


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Path:
    """Folder with `model_int8.tflite` and `model_int8.onnx` of `run`."""
    path = tmp_path_factory.mktemp("exported")
    assert run_main("export", "--int8", "--checkpoint", run, "--out", path) == 0
    return path


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images to train on and 8 to validate, blue or red."""
    root = tmp_path_factory.mktemp("colours")
    generator = np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 8)):
        for index in range(count):
            path = root / part / ("blue", "red")[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = generator.integers(0, 60, (32, 32, 3), np.uint8)
            image[..., 2 if index % 2 == 0 else 0] += 150
            Image.fromarray(image).save(path)
    return root


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of `colours` that takes seconds."""
    path = tmp_path_factory.mktemp("recipe") / "quick.yaml"
    path.write_text(
        "epochs: 12\nbatch_size: 8\nbn_momentum: 0.3\noptimizer: {rate: 0.05, reference_batch: 8}\n"
        "augmentation: {min_area: 0.5, colour: false}\n"
    )
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, colours: Path, recipe: Path) -> Path:
    """A float model of `colours`, trained by the command."""
    out = tmp_path_factory.mktemp("trained") / "float"
    done = spawn("train", *MODEL, "--recipe", recipe, "--data", colours, "--out", out)
    assert done.code == 0, done.stderr
    assert "best validation 100.00 %" in done.stdout
    return out
