"""Dead tensors: scales are floored so that XNNPACK and ONNX Runtime still take the whole network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from calibration.config import PtqConfig
from calibration.ptq import calibrate
from device_eval.partitions import delegate_partitions
from qmnv3.errors import CalibrationError
from qmnv3.export.tflite import write_tflite
from qmnv3.ir import Metadata
from qmnv3.lowering import lower
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.convert import convert

SPEC = Preprocessing(16, 16)


class Dead(nn.Module):
    """One tensor that is 0, or nearly, on every image."""

    def __init__(self, where: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.branch = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 1)
        self.reduce, self.expand = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.relu, self.hard_swish, self.gate = nn.ReLU(), nn.Hardswish(), nn.Hardsigmoid()
        self.project = nn.Conv2d(8, 8, 1)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 5, 1)
        dead = self.reduce if where == "se relu" else self.branch
        if where == "se relu":
            dead.bias.data.fill_(-100.0)
        else:
            dead.weight.data.mul_(1e-9)
            dead.bias.data.zero_()
        self.where = where

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.stem(x))
        branch = self.branch(x)
        if self.where.startswith("h-swish input"):
            branch = self.hard_swish(branch)
        if self.where == "h-swish input before a layer":
            branch = self.project(branch)
        x = x + branch
        x = x * self.gate(self.expand(self.relu(self.reduce(self.pool(x)))))
        return self.head(self.pool(x)).flatten(1)


@pytest.mark.parametrize("where", ["se relu", "h-swish input", "h-swish input before a layer", "summand"])
def test_the_network_stays_one_partition_and_the_floor_is_reported(where: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (8, 16, 16, 3)).astype(np.float32)
    result = calibrate(Dead(where).eval(), SPEC, lambda: [images], PtqConfig())
    expected = "reduce" if where == "se relu" else "branch"
    assert expected in [floored.site for floored in result.floored]
    graph = convert(result.model, Metadata())
    write_tflite(lower(graph, "xnnpack"), tmp_path / "model.tflite")
    partitions = delegate_partitions(tmp_path / "model.tflite")
    assert (partitions.count, partitions.undelegated, partitions.refused) == (1, (), None)


def test_a_healthy_network_has_no_floored_scale() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    images = np.random.default_rng(0).uniform(-1, 1, (8, 16, 16, 3)).astype(np.float32)
    assert calibrate(model, SPEC, lambda: [images], PtqConfig()).floored == ()


def network_with_a_dead_channel() -> nn.Module:
    """Channel 0 behind the ReLU is always 0, and its weights are 200 times the others'."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    model[0].weight.data[0] *= 200.0
    model[0].bias.data[0] = -1e4
    return model.eval()


@pytest.mark.parametrize("level", [1, 2])
def test_a_dead_channel_does_not_coarsen_its_tensor(level: int, tmp_path: Path) -> None:
    """The other channels keep their 256 levels, as without it, and XNNPACK takes the network."""
    images = np.random.default_rng(0).uniform(-1, 1, (8, 16, 16, 3)).astype(np.float32)
    result = calibrate(network_with_a_dead_channel(), SPEC, lambda: [images], PtqConfig(level=level))
    row = next(row for row in result.layers if row["site"] == "0")
    assert row["high"] < 1.1 * row["observed_high"] and row["sqnr_db"] > 35.0
    write_tflite(lower(convert(result.model, Metadata()), "xnnpack"), tmp_path / "model.tflite")
    partitions = delegate_partitions(tmp_path / "model.tflite")
    assert (partitions.count, partitions.undelegated, partitions.refused) == (1, (), None)


def test_nan_in_activations_names_the_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    model[0].weight.data.fill_(3e38)
    images = np.ones((2, 16, 16, 3), np.float32)
    with pytest.raises(CalibrationError, match=r"^0: NaN or infinity"):
        calibrate(model, SPEC, lambda: [images], PtqConfig())


def test_no_images_is_an_error() -> None:
    with pytest.raises(CalibrationError, match="no images"):
        calibrate(nn.Sequential(nn.Conv2d(3, 8, 3)).eval(), SPEC, lambda: [], PtqConfig())
