"""`qmnv3 train` and `qmnv3 qat` as a user types them, on 24 small images of two colours."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from cli_command import ENVIRONMENT, assert_refused, run_main, spawn, untouched
from conftest import Cli
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from qmnv3.cli import qat_job
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


def test_two_trainings_are_averaged(cli: Cli, tmp_path: Path, colours: Path, trained: Path) -> None:
    """Of a checkpoint and its like with other statistics: the same weights, statistics of whole images."""
    one = trained / "model.safetensors"
    changed = load_file(one)
    changed["classifier.3.bias"] += 1.0
    with safe_open(one, "numpy") as file:
        metadata = file.metadata()
    save_file(changed, tmp_path / "other.safetensors", metadata)
    out, found = tmp_path / "mean.safetensors", tmp_path / "mean.json"
    given = ("--model", "small", "--data", colours, "--out", out)
    done = cli("average", one, tmp_path / "other.safetensors", *given, "--images", 24, "--json", found)
    assert done.code == 0, done.stderr
    kept, parent = load_file(out), load_file(one)
    np.testing.assert_allclose(kept["classifier.3.bias"], parent["classifier.3.bias"] + 0.5, rtol=1e-6)
    np.testing.assert_array_equal(kept["features.0.0.weight"], parent["features.0.0.weight"])
    model = load_model("small", out)
    with torch.no_grad():
        raw = model.model.features[0][0](_batch(list((colours / "train").rglob("*.png")), model))
    np.testing.assert_allclose(
        kept["features.0.1.running_mean"], raw.mean((0, 2, 3)).numpy(), rtol=1e-4, atol=1e-5
    )
    accuracies = json.loads(found.read_text())["top1"]
    assert list(accuracies) == [str(one), str(tmp_path / "other.safetensors"), str(out)]
    assert accuracies[str(one)] == 1.0 and "100.00" in done.stdout


@pytest.mark.parametrize(
    ("second", "text"),
    [
        ((), "one checkpoint has no average; give two or more"),
        (("weights",), "prepares images differently from"),
    ],
    ids=["one", "another preparation"],
)
def test_what_cannot_be_averaged(
    cli: Cli, tmp_path: Path, colours: Path, trained: Path, second: tuple[str, ...], text: str
) -> None:
    others = []
    for name in second:
        others.append(tmp_path / f"{name}.safetensors")
        save_file(load_file(trained / "model.safetensors"), others[-1], {"resolution": "64"})
    out = tmp_path / "mean.safetensors"
    given = (trained / "model.safetensors", *others)
    assert_refused(cli("average", *given, "--model", "small", "--data", colours, "--out", out), text)
    assert not out.exists()


def test_an_average_replaces_none_of_its_checkpoints(cli: Cli, colours: Path, trained: Path) -> None:
    one = trained / "model.safetensors"
    with untouched(trained):
        done = cli("average", one, one, "--model", "small", "--data", colours, "--out", one)
        assert_refused(done, "give a new file", "--out")


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
    """With a rate of almost nothing the integers stay those of the RUN; nothing is judged."""
    given = ("--model", "small", "--weights", trained / "model.safetensors")
    start, out = tmp_path / "ptq", tmp_path / "qat"
    done = cli("ptq", *given, "--calib", colours / "train", "--out", start, "--images", 24, "--level", 2)
    assert done.code == 0, done.stderr
    run = (*given, "--data", colours / "train", "--start", start, "--epochs", 1, "--batch-size", 8)
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


@pytest.fixture(scope="module")
def four_bits(tmp_path_factory: pytest.TempPathFactory, colours: Path, trained: Path) -> tuple[Path, Path]:
    """A RUN of 4-bit weights with one scale for all channels, and the checkpoint that it was made from."""
    folder = tmp_path_factory.mktemp("four_bits")
    weights, recipe = folder / "float.safetensors", folder / "four.yaml"
    shutil.copy(trained / "model.safetensors", weights)
    recipe.write_text("{level: 1, images: 8, weights: {bits: 4, granularity: per_tensor}}")
    given = ("--model", "small", "--weights", weights, "--calib", colours / "train", "--recipe", recipe)
    assert run_main("ptq", *given, "--out", folder / "RUN") == 0
    return folder / "RUN", weights


def test_qat_goes_on_with_the_bits_and_the_weights_of_the_run_it_starts_from(
    cli: Cli, tmp_path: Path, colours: Path, four_bits: tuple[Path, Path]
) -> None:
    start, weights = four_bits
    given = ("--model", "small", "--data", colours / "train", "--start", start, "--epochs", 1)
    done = cli("qat", *given, "--batch-size", 8, "--out", tmp_path / "RUN")
    assert done.code == 0, done.stderr
    made = json.loads((tmp_path / "RUN" / "run.json").read_text())
    assert made["weights"]["path"] == str(weights)
    assert made["recipe"]["calibration"]["weights"] == {"bits": 4, "granularity": "per_tensor"}
    tensors = load_file(tmp_path / "RUN" / "int8.safetensors")
    kernels = [tensor for name, tensor in tensors.items() if name.endswith(".weight")]
    assert kernels and max(int(np.abs(tensor).max()) for tensor in kernels) == 7


def test_qat_refuses_other_weights_than_those_of_the_run_it_starts_from(
    cli: Cli, tmp_path: Path, colours: Path, four_bits: tuple[Path, Path]
) -> None:
    start, weights = four_bits
    tensors = load_file(weights)
    with safe_open(weights, framework="numpy") as file:
        save_file(
            tensors | {"classifier.3.bias": tensors["classifier.3.bias"] + 1},
            tmp_path / "other.safetensors",
            file.metadata(),
        )
    given = ("--model", "small", "--data", colours, "--start", start, "--out", tmp_path / "RUN")
    with untouched(tmp_path, start):
        other = cli("qat", *given, "--weights", tmp_path / "other.safetensors")
        assert_refused(
            other, f"--start {start}: was made from {weights}", "other.safetensors", "give the same"
        )
    weights.rename(weights.with_name("moved.safetensors"))
    try:
        assert_refused(cli("qat", *given), f"{weights} is gone; give --weights")
    finally:
        weights.with_name("moved.safetensors").rename(weights)


def test_qat_that_only_makes_it_worse_gives_back_the_calibrated_model(
    cli: Cli, tmp_path: Path, colours: Path, four_bits: tuple[Path, Path]
) -> None:
    start, _ = four_bits
    given = ("--model", "small", "--data", colours, "--start", start, "--epochs", 1, "--batch-size", 8)
    with pytest.MonkeyPatch.context() as patch:
        judged = iter([0.9, 0.8, 1.0, 0.9])  # calibrated, the epoch, in float, what is kept
        patch.setattr(qat_job, "validation", lambda *given: lambda model: next(judged))
        done = cli("qat", *given, "--rate", 1, "--out", tmp_path / "RUN")
    assert done.code == 0, done.stderr
    assert "90.00 % in int8" in done.stdout and "the calibrated model is kept" in done.stdout
    for name in ("int8.safetensors", "calibrated.safetensors"):
        assert (tmp_path / "RUN" / name).read_bytes() == (start / name).read_bytes()


def test_qat_judges_with_the_statistics_that_it_keeps(
    cli: Cli, tmp_path: Path, colours: Path, trained: Path
) -> None:
    recipe = tmp_path / "fresh.yaml"
    recipe.write_text(
        "calibration: {level: 1, images: 8}\n"
        "training: {epochs: 1, batch_size: 8, reestimate_images: 8, tensorboard: true}\n"
    )
    given = ("--model", "small", "--weights", trained / "model.safetensors", "--data", colours)
    judged: list[float] = []

    def judge(model: nn.Module) -> float:
        """What no two models have in common; the calibrated one comes first."""
        with torch.inference_mode():
            spread = float(model(torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)).std())
        judged.append(spread if judged else 0.0)
        return judged[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qat_job, "validation", lambda *given: judge)
        done = cli("qat", *given, "--recipe", recipe, "--out", tmp_path / "RUN")
    assert done.code == 0, done.stderr
    training = json.loads((tmp_path / "RUN" / "run.json").read_text())["training"]
    assert training["best"] == training["accuracy"] > 0
    events = EventAccumulator(str(tmp_path / "RUN" / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("validation")] == pytest.approx([0.0, training["best"]])


def test_corrupt_validation_images_are_named_and_left_out(
    cli: Cli, tmp_path: Path, colours: Path, trained: Path
) -> None:
    """Of eight, seven can be read."""
    data, weights = tmp_path / "data", trained / "model.safetensors"
    shutil.copytree(colours, data)
    bad = data / "val" / "red" / "1.png"
    bad.write_bytes(b"no image")
    recipes = {"train": "v3_modern", "qat": "v3s_qat"}
    for command, recipe in recipes.items():
        out = tmp_path / command
        given = ("--model", "small", "--weights", weights, "--data", data, "--recipe", recipe)
        done = cli(command, *given, "--epochs", 1, "--batch-size", 8, "--out", out)
        assert done.code == 0, done.stderr
        assert f"warning: 1 images could not be read: {bad}" in done.stderr
        found = json.loads((out / {"train": "train.json", "qat": "run.json"}[command]).read_text())
        assert found["skipped_images"] == [str(bad)]
        best = found["best_validation"] if command == "train" else found["training"]["best"]
        assert best * 7 == pytest.approx(round(best * 7)) and best > 0.5


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
    for option, value in (("--resolution", 64), ("--val", colours / "val")):
        other = cli("qat", *given, "--out", killed, "--resume", option, value)
        assert_refused(other, f"was begun with {option[2:]}: None (now {value})")
    for out, options in ((killed, ["--resume"]), (whole, [])):
        done = cli("qat", *given, "--out", out, *options)
        assert done.code == 0, done.stderr
    assert (killed / "int8.safetensors").read_bytes() == (whole / "int8.safetensors").read_bytes()


def test_bad_input_is_one_line_and_leaves_nothing(
    cli: Cli, tmp_path: Path, colours: Path, trained: Path, recipe: Path
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
        other = ("--data", colours, "--out", trained, "--resume", "--recipe", recipe)
        for option, value in (("--resolution", 64), ("--val", colours / "val")):
            refused = cli("train", *MODEL, *other, option, value)
            assert_refused(refused, f"was begun with {option[2:]}: ", f"(now {value})")
        flat = cli("train", *MODEL, "--data", colours / "train" / "red", *out)
        assert_refused(flat, "no class sub-folders")


def test_a_misspelt_key_of_a_section_is_named(cli: Cli, tmp_path: Path, colours: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("training: {epoch: 3}\n")
    done = cli("qat", *MODEL, "--data", colours, "--out", tmp_path / "RUN", "--recipe", recipe)
    assert_refused(done, "training.epoch", "did you mean 'epochs'?")


def test_precision_and_accumulation_win_over_the_recipe(cli: Cli, tmp_path: Path, colours: Path) -> None:
    given = ("--data", colours, "--out", tmp_path / "float", "--epochs", 1, "--batch-size", 4)
    done = cli("train", *MODEL, *given, "--precision", "bf16", "--accumulate", 2)
    assert done.code == 0, done.stderr
    summary = json.loads((tmp_path / "float" / "train.json").read_text())
    assert summary["steps"] == 3 and summary["recipe"]["precision"] == "bf16"
    for command in ("train", "qat"):
        wrong = cli(command, *MODEL, "--data", colours, "--out", tmp_path / "RUN", "--precision", "fp8")
        assert_refused(wrong, "precision: Input should be 'float32' or 'bf16', found 'fp8'")


def test_qat_without_weights_and_network_says_that_weights_can_be_given(
    cli: Cli, tmp_path: Path, colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*given: object) -> None:
        raise httpx.ConnectError("no route to host")

    monkeypatch.setattr("qmnv3.models.download._receive", offline)
    monkeypatch.setenv("QMNV3_CACHE", str(tmp_path / "cache"))
    done = cli("qat", "--model", "large", "--data", colours, "--out", tmp_path / "RUN")
    assert_refused(done, "no route to host", "or give --weights, a checkpoint of large")
