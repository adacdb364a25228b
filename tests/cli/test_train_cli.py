"""`qmnv3 train` as a user types it, on 24 small images of two colours; and what `qat` refuses alike."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_command import MODEL, Cli, assert_refused, image_batch, untouched
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from qmnv3.models.weights import load_model


def test_train_writes_weights_log_and_summary(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert max(line["validation"] for line in lines if "validation" in line) == 1.0
    summary = json.loads((trained / "train.json").read_text())
    assert summary["steps"] == 36 and summary["recipe"]["model"]["width"] == 0.35
    assert summary["environment"]["begun_by_processes"] == 1


def test_a_run_may_be_resumed_with_other_workers(
    cli: Cli, tmp_path: Path, colours: Path, trained: Path, recipe: Path
) -> None:
    shutil.copytree(trained, tmp_path / "float")
    given = ("--data", colours, "--recipe", recipe, "--out", tmp_path / "float")
    done = cli("train", *MODEL, *given, "--resume", "--workers", 1)
    assert done.code == 0 and "36 steps" in done.stdout, done.stderr


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
    batch = image_batch(list((colours / "train").rglob("*.png")), parent)
    with torch.no_grad():
        raw = parent.model.features[0][0](batch)
    torch.testing.assert_close(
        kept.model.features[0][1].running_mean, raw.mean((0, 2, 3)), rtol=1e-4, atol=1e-5
    )
    summary = json.loads((tmp_path / "fresh" / "train.json").read_text())
    right = [
        int(kept.model(image_batch([path], kept)).argmax()) == ("blue", "red").index(path.parent.name)
        for path in (colours / "val").rglob("*.png")
    ]
    assert np.mean(right) == summary["best_validation"]


def reclassified(trained: Path, out: Path, **changed: torch.Tensor) -> tuple[object, ...]:
    """Arguments for the model of `trained`, with these tensors of its classifier."""
    path = trained / "model.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    state = load_file(path)
    state |= {f"classifier.{name.replace('_', '.')}": tensor for name, tensor in changed.items()}
    save_file(state, out, metadata)
    return ("--model", "small", "--weights", out, "--resolution", 32)


def test_only_a_classifier_that_fits_is_kept(cli: Cli, tmp_path: Path, colours: Path, trained: Path) -> None:
    """Nothing is learned at this rate, so that a classifier that is kept stays as it is."""
    recipe, mark = tmp_path / "still.yaml", 7.0
    recipe.write_text("epochs: 1\nbatch_size: 8\noptimizer: {rate: 1.0e-30, weight_decay: 0}\n")
    for shape in ((2, 1280), (3, 1280), (2, 1024)):
        given = reclassified(
            trained,
            tmp_path / f"{shape}.safetensors",
            **{"3_weight": torch.full(shape, mark), "3_bias": torch.zeros(shape[0])},
        )
        out = tmp_path / f"of {shape}"
        done = cli("train", *given, "--data", colours, "--recipe", recipe, "--out", out)
        assert done.code == 0, done.stderr
        weight = load_file(out / "model.safetensors")["classifier.3.weight"]
        assert weight.shape == (2, 1280)
        assert bool((weight == mark).all()) == (shape == weight.shape)


def test_a_classifier_that_is_damaged_is_not_begun_anew(
    cli: Cli, tmp_path: Path, colours: Path, trained: Path
) -> None:
    damaged = {"3_bias": torch.tensor([0.0, float("nan")])}
    given = reclassified(trained, tmp_path / "nan.safetensors", **damaged)
    done = cli("train", *given, "--data", colours, "--out", tmp_path / "out")
    assert_refused(done, "classifier.3.bias holds NaN")


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
        assert f"warning: 1 image could not be read, left out: {bad}" in done.stderr
        found = json.loads((out / {"train": "train.json", "qat": "run.json"}[command]).read_text())
        assert found["skipped_images"] == [str(bad)]
        best = found["best_validation"] if command == "train" else found["training"]["best"]
        assert best * 7 == pytest.approx(round(best * 7)) and best > 0.5


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
        for option, value, now in (("--resolution", 64, "64"), ("--val", colours / "train", "24 labelled")):
            refused = cli("train", *MODEL, *other, option, value)
            assert_refused(refused, f"was begun with {option[2:]}: ", f"(now {now}")
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
