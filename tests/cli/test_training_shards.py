"""`qmnv3 train` and `qmnv3 qat` on tar shards, as a user types them."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cli_command import Cli, assert_refused, run_main, untouched
from data.shard_sets import served, write_shards
from PIL import Image

from qmnv3.cli.training_data import class_outputs, find_training_data
from qmnv3.data import find_images, shards
from qmnv3.errors import DataError
from qmnv3.runs import load_run_graph

MODEL = ("--model", "small", "--width", 0.35, "--resolution", 32)
QUICK = ("--epochs", 2, "--batch-size", 8)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """photos/{train,val}/<colour>/ and the same as sharded/{train,val}/*.tar with a classes.json."""
    root = tmp_path_factory.mktemp("colours")
    generator = np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 8)):
        for index in range(count):
            path = root / "photos" / part / ("blue", "red")[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = generator.integers(0, 60, (32, 32, 3), np.uint8)
            image[..., 2 if index % 2 == 0 else 0] += 150
            Image.fromarray(image).save(path)
        images = find_images(root / "photos" / part, classes=True)
        write_shards(images, root / "sharded" / part, per_shard=7)
    (root / "sharded" / "classes.json").write_text(json.dumps({"red": "Red", "blue": "Blue"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QMNV3_CACHE", str(root / "cache"))
        yield root


@pytest.fixture(scope="module")
def trained(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float model trained on a folder of shards."""
    out = tmp_path_factory.mktemp("trained") / "float"
    assert run_main("train", *MODEL, *QUICK, "--data", colours / "sharded", "--out", out) == 0
    return out


def test_training_on_a_folder_of_shards_is_judged_on_the_shards_beside(trained: Path) -> None:
    summary = json.loads((trained / "train.json").read_text())
    assert summary["steps"] == 6 and summary["best_validation"] is not None
    assert summary["skipped_images"] == []


def test_the_next_command_can_be_pasted_and_a_run_resumed(cli: Cli, tmp_path: Path, colours: Path) -> None:
    pattern = colours / "sharded" / "train" / "train-{000000..000003}.tar"
    given = (*MODEL, "--data", pattern, "--val", colours / "photos" / "val", "--batch-size", 8)
    done = cli("train", *given, "--epochs", 1, "--out", tmp_path / "a")
    assert done.code == 0, done.stderr
    assert f"--data '{pattern}' --val {colours}/photos/val" in done.stdout
    done = cli("train", *given, "--epochs", 1, "--out", tmp_path / "a", "--resume")
    assert done.code == 0, done.stderr


def test_qat_from_a_server_names_the_outputs(cli: Cli, tmp_path: Path, colours: Path, trained: Path) -> None:
    with served(colours / "sharded") as (address, _):
        given = ("--model", "small", "--weights", trained / "model.safetensors", *QUICK, "--level", 1)
        given += ("--distill", 0.5)  # the default recipe wants no labels
        url = f"{address}/train/train-{{000000..000003}}.tar"
        out = tmp_path / "RUN"
        done = cli("qat", *given, "--data", url, "--val", colours / "photos" / "val", "--out", out)
    assert done.code == 0, done.stderr
    run = json.loads((out / "run.json").read_text())
    assert run["training"]["steps"] == 6 and run["calibration_images"] == url
    assert load_run_graph(out).metadata.labels == ("blue", "red")


def test_labels_of_shards_are_the_outputs_folders_of_these_names_have(colours: Path) -> None:
    mixed = find_training_data(colours / "sharded" / "train", colours / "photos" / "val", labels=True)
    plain = find_training_data(colours / "photos", None, labels=True)
    assert mixed.train.classes == plain.train.classes == ("blue", "red")
    for outputs in (2, 3):  # with a background class too
        for ours, theirs in zip(class_outputs(mixed, outputs), class_outputs(plain, outputs), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_shards_without_names_cannot_be_judged_on_named_folders(tmp_path: Path, colours: Path) -> None:
    write_shards(find_images(colours / "photos" / "train", classes=True), tmp_path / "bare", per_shard=50)
    with pytest.raises(DataError, match=r"class blue is not among those .* classes.json beside shards"):
        find_training_data(tmp_path / "bare", colours / "photos" / "val", labels=True)
    data = find_training_data(tmp_path / "bare", tmp_path / "bare", labels=True)
    trained, judged = class_outputs(data, 2)
    assert data.train.classes == ("0", "1") and trained.tolist() == judged.tolist() == [0, 1]


def test_bad_shards_are_one_line_and_leave_nothing(
    cli: Cli, tmp_path: Path, colours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = colours / "sharded" / "train"
    damaged = tmp_path / "cut.tar"
    damaged.write_bytes((train / "train-000000.tar").read_bytes()[:5000])
    out = ("--out", tmp_path / "out")
    with untouched(tmp_path):
        for command in ("train", "qat"):
            weights = ("--weights", colours / "none.safetensors") if command == "qat" else ()
            done = cli(command, *MODEL, *weights, "--data", train / "train-{000000..000009}.tar", *out)
            assert_refused(done, "train-000004.tar: no such shard", "check the numbers")
            done = cli(command, *MODEL, *weights, "--data", damaged, *out)
            assert_refused(done, f"{damaged}: damaged, cut off")
            done = cli(command, *MODEL, *weights, "--data", "gs://bucket/{0..3}.tar", *out)
            assert_refused(done, "gs://bucket/0.tar", "http(s)")
        monkeypatch.setattr(shards, "find_spec", lambda name: None)
        assert_refused(
            cli("train", *MODEL, "--data", train, *out),
            "webdataset: is not installed",
            "pip install 'qmnv3[shards]'",
        )


@pytest.mark.parametrize("command", ["train", "qat"])
def test_help_shows_how_shards_are_given(cli: Cli, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = cli(command, "--help").stdout
    assert "--data 'shards/train-{000000..000009}.tar'" in shown
    assert "or shards: 'train-{000..146}.tar'" in shown
