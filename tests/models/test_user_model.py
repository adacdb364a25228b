"""A user's own network, given as package.module:function."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from qmnv3.errors import ModelError, WeightsError
from qmnv3.models.weights import load_model

SOURCE = """
from torch import nn
def build(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
def crash(): raise ValueError("no disk\\nsecond line")
def number(): return 3
constant = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_nets.py").write_text(SOURCE)
    (tmp_path / "broken_nets.py").write_text("import sys\nsys.exit(4)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("here")
def test_built_from_the_current_directory_and_seeded() -> None:
    first, again, other = (load_model("my_nets:build", seed=s).model for s in (0, 0, 1))
    assert isinstance(first, nn.Sequential)
    assert not first.training
    weights = [m.get_parameter("0.weight") for m in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_weights_and_metadata_are_loaded(here: Path) -> None:
    path = here / "w.safetensors"
    save_file({"0.weight": torch.ones(4, 3, 3, 3), "0.bias": torch.zeros(4)}, path, {"mean": "0.1,0.2,0.3"})
    loaded = load_model("my_nets:build", path)
    assert bool((loaded.model.get_parameter("0.weight") == 1).all())
    assert loaded.preprocessing.mean == (0.1, 0.2, 0.3)


def test_other_weights_are_refused(here: Path) -> None:
    path = here / "w.safetensors"
    save_file({"0.weight": torch.ones(5, 3, 3, 3), "0.bias": torch.zeros(4)}, path)
    with pytest.raises(
        WeightsError, match=r"0.weight is \[5, 3, 3, 3\], model my_nets:build needs \[4, 3, 3, 3\]"
    ):
        load_model("my_nets:build", path)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:build", "No module named 'no_such_module'"),
        ("broken_nets:build", "importing 'broken_nets' failed: SystemExit: 4"),
        ("my_nets:missing", "has no function 'missing'"),
        ("my_nets:constant", "has no function 'constant'"),
        ("my_nets:crash", r"calling crash\(\) failed: ValueError: no disk$"),
        ("my_nets:number", "returned int; return an nn.Module"),
        (":build", "write it as package.module:function"),
    ],
)
def test_failures_are_one_line(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("here")
def test_options_of_built_in_models_are_refused() -> None:
    with pytest.raises(ModelError, match="width can be chosen for built-in models only"):
        load_model("my_nets:build", width=0.5)
