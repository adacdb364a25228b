"""`qmnv3 qat` as a user types it, on 24 small images of two colours."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from cli_command import ENVIRONMENT, Cli, assert_refused, run_main, untouched
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from device_eval.runners import open_model
from qmnv3.cli import qat_job
from qmnv3.models.checkpoint import save_checkpoint
from qmnv3.models.network import MobileNet
from qmnv3.models.weights import load_model


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
    assert run["training"]["best"] >= 0.5
    steps = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert all(0.0 <= step["accuracy"] <= 1.0 for step in steps if "loss" in step)
    assert json.loads((out / "int8.json").read_text())["metadata"]["labels"] == ["blue", "red"]
    assert cli("inspect", out).code == 0
    assert cli("export", "--int8", "--checkpoint", out, "--out", tmp_path / "export").code == 0
    for path in (out, tmp_path / "export" / "model_int8.tflite"):
        done = cli("eval", path, "--data", colours / "val", "--json", tmp_path / "e.json")
        assert done.code == 0, done.stderr
    measured = json.loads((tmp_path / "e.json").read_text())["top1"]["estimate"]
    assert measured == run["training"]["best"]  # the file is what was judged


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
    assert training["best"] is None and training["steps"] == 3


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
        judged = iter([0.9, 0.8, 1.0])  # calibrated, the epoch, in float
        patch.setattr(qat_job, "validation", lambda *given: lambda model: next(judged))
        done = cli("qat", *given, "--rate", 1e-4, "--out", tmp_path / "RUN")
    assert done.code == 0, done.stderr
    assert "90.00 % in int8" in done.stdout and "the calibrated model is kept" in done.stdout
    for name in ("int8.safetensors", "calibrated.safetensors"):
        assert (tmp_path / "RUN" / name).read_bytes() == (start / name).read_bytes()


def test_an_epoch_that_cannot_be_deployed_is_not_kept(
    cli: Cli, tmp_path: Path, colours: Path, four_bits: tuple[Path, Path]
) -> None:
    """A rate of 1 makes ranges of millions: TFLite would abort the process that loads such a sum."""
    start, _ = four_bits
    given = ("--model", "small", "--data", colours, "--start", start, "--epochs", 1, "--batch-size", 8)
    done = cli("qat", *given, "--rate", 1, "--out", tmp_path / "RUN")
    assert done.code == 0, done.stderr
    (warning,) = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert "cannot be deployed: features." in warning and "ADD needs; train slower" in warning
    assert "the calibrated model is kept" in done.stdout
    assert cli("export", "--int8", "--checkpoint", tmp_path / "RUN", "--out", tmp_path / "export").code == 0


def test_qat_on_some_of_the_classes_names_none(
    cli: Cli, tmp_path: Path, colours: Path, trained: Path
) -> None:
    """Two folders, and a classes.json that has a third: not all outputs have a name."""
    photos, float_model = tmp_path / "photos", tmp_path / "three.safetensors"
    shutil.copytree(colours, photos)
    for part in ("train", "val"):
        (photos / "classes.json").write_text('{"blue": "blue", "red": "red", "white": "white"}')
        (photos / part / "classes.json").write_text('{"blue": "blue", "red": "red", "white": "white"}')
    network = load_model("small", width=0.35, num_classes=3, resolution=32)
    assert isinstance(network.model, MobileNet)
    save_checkpoint(float_model, network.model, network.preprocessing)
    given = ("--model", "small", "--weights", float_model, "--data", photos, "--level", 0)
    done = cli("qat", *given, "--epochs", 1, "--batch-size", 8, "--out", tmp_path / "RUN")
    assert done.code == 0, done.stderr
    assert json.loads((tmp_path / "RUN" / "int8.json").read_text())["metadata"]["labels"] == []


def test_qat_judges_the_file_that_is_exported(cli: Cli, tmp_path: Path, colours: Path, trained: Path) -> None:
    recipe = tmp_path / "fresh.yaml"
    recipe.write_text(
        "calibration: {level: 1, images: 8}\n"
        "training: {epochs: 1, batch_size: 8, reestimate_images: 8, tensorboard: true}\n"
    )
    given = ("--model", "small", "--weights", trained / "model.safetensors", "--data", colours)
    judged: list[float] = []

    image = np.linspace(-1, 1, 32 * 32 * 3, dtype=np.float32).reshape(1, 32, 32, 3)

    def judge(model: Callable[[torch.Tensor], torch.Tensor]) -> float:
        """What no two models have in common; the calibrated one comes first, the float model last."""
        assert isinstance(model, nn.Module) == (len(judged) == 2)
        with torch.inference_mode():
            spread = float(model(torch.from_numpy(image).permute(0, 3, 1, 2)).std())
        judged.append(spread if judged else 0.0)
        return judged[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qat_job, "validation", lambda *given: judge)
        done = cli("qat", *given, "--recipe", recipe, "--out", tmp_path / "RUN")
    assert done.code == 0, done.stderr
    training = json.loads((tmp_path / "RUN" / "run.json").read_text())["training"]
    assert cli("export", "--int8", "--checkpoint", tmp_path / "RUN", "--out", tmp_path).code == 0
    logits = open_model(tmp_path / "model_int8.tflite").run(image)
    assert training["best"] == pytest.approx(logits.std(ddof=1)) and training["best"] > 0
    events = EventAccumulator(str(tmp_path / "RUN" / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("validation")] == pytest.approx([0.0, training["best"]])


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
    for option, value, begun_with in (("--resolution", 64, "None"), ("--val", colours / "train", "8 lab")):
        other = cli("qat", *given, "--out", killed, "--resume", option, value)
        assert_refused(other, f"was begun with {option[2:]}: {begun_with}", "(now ")
    for out, options in ((killed, ["--resume"]), (whole, [])):
        done = cli("qat", *given, "--out", out, *options)
        assert done.code == 0, done.stderr
    assert (killed / "int8.safetensors").read_bytes() == (whole / "int8.safetensors").read_bytes()


def test_qat_without_weights_and_network_says_that_weights_can_be_given(
    cli: Cli, tmp_path: Path, colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*given: object) -> None:
        raise httpx.ConnectError("no route to host")

    monkeypatch.setattr("qmnv3.models.download._receive", offline)
    monkeypatch.setenv("QMNV3_CACHE", str(tmp_path / "cache"))
    done = cli("qat", "--model", "large", "--data", colours, "--out", tmp_path / "RUN")
    assert_refused(done, "no route to host", "or give --weights, a checkpoint of large")
