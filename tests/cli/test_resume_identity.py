"""What `--resume` goes on with: the same weights and images wherever they lie, and no others."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_command import MODEL, Cli, assert_refused
from PIL import Image

from qmnv3.cli.train_job import resumable
from qmnv3.errors import DataError, ProcessError

QUICK = ("--epochs", 1, "--batch-size", 8)


def test_train_goes_on_with_the_same_by_another_path_and_with_nothing_else(
    cli: Cli, tmp_path: Path, colours: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, weights, out = tmp_path / "data", tmp_path / "weights.safetensors", tmp_path / "out"
    shutil.copytree(colours, data)
    shutil.copy(trained / "model.safetensors", weights)

    def train(images: object, parent: object) -> object:
        given = ("--model", "small", "--resolution", 32, "--weights", parent, "--data", images)
        resume = ("--resume",) if out.exists() else ()
        return cli("train", *given, *QUICK, "--out", out, *resume)

    assert train(data, weights).code == 0
    monkeypatch.chdir(tmp_path)
    moved = Path("moved.safetensors")
    shutil.copy(weights, moved)
    again = train("data", moved)
    assert again.code == 0, again.stderr

    changed = weights.read_bytes()
    weights.write_bytes(changed[:-1] + bytes([changed[-1] ^ 1]))
    assert_refused(train(data, weights), "begun with weights: a file of SHA-256 ", "(now a file of SHA-256 ")
    shutil.copy(moved, weights)
    image = data / "train" / "red" / "1.png"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(image)
    found = train(data, weights)
    assert_refused(found, "begun with data: 24 labelled images, SHA-256 of names and sizes ", "(now 24 ")


def test_qat_goes_on_with_the_same_by_another_path_and_with_nothing_else(
    cli: Cli, tmp_path: Path, colours: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training folder is kept as a kill before the RUN is written leaves it."""
    data, out, start = tmp_path / "data", tmp_path / "out", tmp_path / "start"
    shutil.copytree(colours, data)
    remove = shutil.rmtree
    monkeypatch.setattr("qmnv3.cli.qat_job.shutil.rmtree", lambda *given, **options: None)
    weights = ("--model", "small", "--weights", trained / "model.safetensors")
    made = cli("ptq", *weights, "--calib", colours / "train", "--level", 0, "--images", 8, "--out", start)
    assert made.code == 0, made.stderr

    def qat(images: object, run: Path, *resume: object) -> object:
        remove(out, ignore_errors=True)
        return cli("qat", *weights, "--data", images, "--start", run, *QUICK, "--out", out, *resume)

    assert qat(data, start).code == 0
    monkeypatch.chdir(tmp_path)
    again = qat("data", Path("start"), "--resume")
    assert again.code == 0, again.stderr
    (data / "val" / "red" / "7.png").rename(data / "val" / "red" / "8.png")
    assert_refused(qat(data, start, "--resume"), "begun with val: 8 labelled images", "(now 8 labelled")


@pytest.mark.parametrize("command", ["train", "qat"])
def test_a_run_killed_before_its_first_checkpoint_begins_anew_with_resume(
    cli: Cli, tmp_path: Path, colours: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    given = (*MODEL, "--data", colours, *QUICK, "--out", tmp_path / "out")
    if command == "qat":
        recipe = tmp_path / "quick.yaml"
        recipe.write_text("calibration: {level: 1, images: 8}\ntraining: {epochs: 1}\n")
        given = ("--weights", trained / "model.safetensors", "--recipe", recipe, *given[:2], *given[4:])
    where = {"train": "qmnv3.cli.train_job.find_training_data", "qat": "qmnv3.cli.qat_start.calibrate"}

    def killed(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    assert_refused(cli(command, *given, "--resume"), "no such folder", "begin without --resume")
    with monkeypatch.context() as patch:
        patch.setattr(where[command], killed)
        assert cli(command, *given).code == 130
    done = cli(command, *given, "--resume")
    assert done.code == 0 and " 3 steps" in done.stdout, done.stderr


def test_what_was_made_for_wrong_input_goes_and_what_another_process_broke_stays(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with pytest.raises(DataError), resumable(out):
        assert out.is_dir()
        raise DataError("no images")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ProcessError), resumable(out):
        raise ProcessError("another process ended")
    assert out.is_dir()
