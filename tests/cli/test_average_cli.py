"""`qmnv3 average` as a user types it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_command import Cli, assert_refused, image_batch, untouched
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from qmnv3.models.weights import load_model


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
        raw = model.model.features[0][0](image_batch(list((colours / "train").rglob("*.png")), model))
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
