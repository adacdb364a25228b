"""`qmnv3 train` and `qmnv3 qat` as a user types them, on 24 small images of two colours."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_command import ENVIRONMENT, assert_refused, spawn, untouched
from conftest import Cli
from PIL import Image
from safetensors.numpy import load_file

from qmnv3.data.transform import preprocess
from qmnv3.models.weights import LoadedModel, load_model

MODEL = ("--model", "small", "--width", 0.35, "--resolution", 32)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
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


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "quick.yaml"
    path.write_text(
        "epochs: 12\nbatch_size: 8\nbn_momentum: 0.3\noptimizer: {rate: 0.05, reference_batch: 8}\n"
        "augmentation: {min_area: 0.5, colour: false}\n"
    )
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, colours: Path, recipe: Path) -> Path:
    out = tmp_path_factory.mktemp("trained") / "float"
    done = spawn("train", *MODEL, "--data", colours, "--recipe", recipe, "--out", out)
    assert done.code == 0, done.stderr
    assert "best validation 100.00 %" in done.stdout
    return out


def test_train_writes_weights_log_and_summary(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert max(line["validation"] for line in lines if "validation" in line) == 1.0
    summary = json.loads((trained / "train.json").read_text())
    assert summary["steps"] == 36 and summary["recipe"]["model"]["width"] == 0.35


def test_statistics_of_whole_images_are_judged_and_kept(
    cli: Cli, tmp_path: Path, colours: Path, trained: Path
) -> None:
    """At a rate of almost nothing only BatchNorm's statistics change."""
    recipe = tmp_path / "fresh.yaml"
    recipe.write_text(
        "epochs: 1\nbatch_size: 8\noptimizer: {rate: 1.0e-30, weight_decay: 0}\nreestimate_images: 24\n"
        "augmentation: {resolution: 24, colour: false}\n"
    )
    given = ("--model", "small", "--weights", trained / "model.safetensors", "--resolution", 32)
    done = cli("train", *given, "--data", colours, "--recipe", recipe, "--out", tmp_path / "fresh")
    assert done.code == 0, done.stderr
    parent, kept = (
        load_model("small", folder / "model.safetensors") for folder in (trained, tmp_path / "fresh")
    )
    batch = _batch(list((colours / "train").rglob("*.png")), parent)
    with torch.no_grad():
        raw = parent.model.features[0][0](batch)
    torch.testing.assert_close(
        kept.model.features[0][1].running_mean, raw.mean((0, 2, 3)), rtol=1e-4, atol=1e-5
    )
    summary = json.loads((tmp_path / "fresh" / "train.json").read_text())
    right = [
        int(kept.model(_batch([path], kept)).argmax()) == ("blue", "red").index(path.parent.name)
        for path in (colours / "val").rglob("*.png")
    ]
    assert np.mean(right) == summary["best_validation"]


def _batch(paths: list[Path], model: LoadedModel) -> torch.Tensor:
    images = [preprocess(np.asarray(Image.open(path)), model.preprocessing) for path in paths]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def test_a_teacher_teaches_what_labels_do_not(
    cli: Cli, tmp_path: Path, colours: Path, recipe: Path, trained: Path
) -> None:
    """Every training image is in the wrong folder; only the teacher knows better."""
    for name, other in (("blue", "red"), ("red", "blue")):
        shutil.copytree(colours / "train" / name, tmp_path / "mixed" / "train" / other)
        shutil.copytree(colours / "val" / name, tmp_path / "mixed" / "val" / name)
    taught = tmp_path / "taught.yaml"
    taught.write_text(recipe.read_text() + "teaching: {weight: 1.0}\n")
    given = (*MODEL, "--data", tmp_path / "mixed", "--recipe", taught)
    teacher = ("--teacher", "small", "--teacher-weights", trained / "model.safetensors")
    done = cli("train", *given, *teacher, "--out", tmp_path / "taught")
    assert done.code == 0, done.stderr
    assert "best validation 100.00 %" in done.stdout


def test_a_teacher_that_does_not_fit_is_refused(
    cli: Cli, tmp_path: Path, colours: Path, trained: Path
) -> None:
    given = ("train", *MODEL, "--data", colours, "--out", tmp_path / "out")
    weights = ("--teacher-weights", trained / "model.safetensors")
    names = tmp_path / "classes.json"
    names.write_text('{"blue": "b", "green": "g"}')
    with untouched(tmp_path, trained):
        assert_refused(cli(*given, "--teacher", "small"), "--teacher MODEL and --teacher-weights FILE")
        assert_refused(
            cli(*given, "--teacher", "large", *weights), "model.safetensors", "the file fits model small"
        )
        unknown = cli(*given, "--teacher", "small", *weights, "--teacher-classes", names)
        assert_refused(unknown, "class folder 'red' is not in")


def test_qat_ends_in_a_run_that_exports_and_evaluates(
    cli: Cli, tmp_path: Path, colours: Path, trained: Path
) -> None:
    out = tmp_path / "RUN"
    given = ("--model", "small", "--weights", trained / "model.safetensors", "--data", colours)
    done = cli("qat", *given, "--out", out, "--epochs", 2, "--batch-size", 8, "--seed", 3)
    assert done.code == 0, done.stderr
    assert "100.00 % in float" in done.stdout and not (tmp_path / "RUN.training").exists()
    run = json.loads((out / "run.json").read_text())
    assert run["recipe"]["training"]["epochs"] == 2 and run["recipe"]["calibration"]["seed"] == 3
    assert run["training"]["accuracy"] >= 0.5
    assert run["training"]["accuracy"] == run["training"]["best"]  # epochs are judged as deployed
    assert (out / "log.jsonl").read_text()
    assert cli("inspect", out).code == 0
    assert cli("export", "--int8", "--checkpoint", out, "--out", tmp_path / "export").code == 0
    judged = [
        cli("eval", path, "--data", colours / "val", "--json", tmp_path / "e.json")
        for path in (tmp_path / "export" / "model_int8.tflite", out)
    ]
    assert all(done.code == 0 for done in judged), judged


def test_qat_learns_from_the_float_model_where_there_are_no_classes(
    cli: Cli, tmp_path: Path, colours: Path, trained: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for index, path in enumerate(sorted((colours / "train").rglob("*.png"))):
        (flat / f"{index}.png").write_bytes(path.read_bytes())
    given = ("--model", "small", "--weights", trained / "model.safetensors", "--data", flat)
    done = cli("qat", *given, "--out", tmp_path / "RUN", "--epochs", 1, "--batch-size", 8, "--level", 1)
    assert done.code == 0, done.stderr
    training = json.loads((tmp_path / "RUN" / "run.json").read_text())["training"]
    assert training["best"] is None and training["accuracy"] is None and training["steps"] == 3


def test_qat_starts_from_a_calibrated_run(cli: Cli, tmp_path: Path, colours: Path, trained: Path) -> None:
    """With a rate of almost nothing the integers stay those of the RUN."""
    given = ("--model", "small", "--weights", trained / "model.safetensors")
    start, out = tmp_path / "ptq", tmp_path / "qat"
    done = cli("ptq", *given, "--calib", colours / "train", "--out", start, "--images", 24, "--level", 2)
    assert done.code == 0, done.stderr
    run = (*given, "--data", colours, "--start", start, "--epochs", 1, "--batch-size", 8)
    done = cli("qat", *run, "--rate", 1e-30, "--out", out)
    assert done.code == 0, done.stderr
    equalized = [json.loads((run / "calibration.json").read_text())["equalization"] for run in (start, out)]
    assert equalized[0] == equalized[1] and equalized[0]
    before, after = (load_file(run / "int8.safetensors") for run in (start, out))
    moved = sum(int((before[name] != after[name]).sum()) for name in before if name.endswith(".weight"))
    assert moved < 0.01 * sum(tensor.size for tensor in before.values())
    other = cli("qat", "--model", "large", *run[2:], "--out", tmp_path / "other")
    assert_refused(other, "the file fits model small")
    (start / "calibrated.safetensors").write_bytes(b"")
    assert_refused(cli("qat", *run, "--out", tmp_path / "again"), "calibrated.safetensors: cannot be read")


def test_a_killed_qat_goes_on_with_resume(cli: Cli, tmp_path: Path, colours: Path, trained: Path) -> None:
    """Scales and integers are those of a run that was not interrupted."""
    given = ["--model", "small", "--weights", trained / "model.safetensors", "--data", colours]
    given += ["--epochs", 3, "--batch-size", 8, "--level", 1]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "qmnv3", "qat", *map(str, given), "--out", str(killed)]
    log = tmp_path / "killed.training" / "log.jsonl"

    def begun() -> bool:
        """Whether the first epoch is over; what training began with is judged too."""
        return log.exists() and log.read_text().count("validation") > 1

    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not begun() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not killed.exists() and begun()
    assert_refused(cli("qat", *given, "--out", killed), "holds a training already", "--resume")
    for out, options in ((killed, ["--resume"]), (whole, [])):
        done = cli("qat", *given, "--out", out, *options)
        assert done.code == 0, done.stderr
    assert (killed / "int8.safetensors").read_bytes() == (whole / "int8.safetensors").read_bytes()


def test_bad_input_is_one_line_and_leaves_nothing(
    cli: Cli, tmp_path: Path, colours: Path, trained: Path
) -> None:
    weights = ("--weights", trained / "model.safetensors")
    out = ("--out", tmp_path / "RUN")
    with untouched(tmp_path, trained):
        assert_refused(cli("qat", *MODEL, "--data", colours, *out), "no --weights", "qmnv3 train")
        assert_refused(cli("qat", *MODEL, *weights, "--data", tmp_path / "none", *out), "no such folder")
        assert_refused(cli("qat", *MODEL, *weights, "--data", colours, *out, "--resume"), "to resume")
        assert_refused(cli("train", *MODEL, "--data", colours, *out, "--device", "cuda"), "--device cuda")
        assert_refused(cli("train", *MODEL, "--data", colours, *out, "--device", "tpu"), "--device tpu")
        assert_refused(cli("train", *MODEL, "--data", colours, "--out", trained), "holds a training")
        assert_refused(cli("train", "--model", "user_nets:tiny", "--data", colours, *out), "built-in")
        flat = cli("train", *MODEL, "--data", colours / "train" / "red", *out)
        assert_refused(flat, "no class sub-folders")


def test_a_misspelt_key_of_a_section_is_named(cli: Cli, tmp_path: Path, colours: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("training: {epoch: 3}\n")
    done = cli("qat", *MODEL, "--data", colours, "--out", tmp_path / "RUN", "--recipe", recipe)
    assert_refused(done, "training.epoch", "did you mean 'epochs'?")
