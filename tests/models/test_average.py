"""The mean of several models' weights."""

import pytest
import torch
from torch import nn

from qmnv3.errors import ModelError
from qmnv3.models.average import average_weights


def net(value: float, width: int = 2) -> nn.Module:
    model = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
    for tensor in model.parameters():
        nn.init.constant_(tensor, value)
    model[1].num_batches_tracked.fill_(int(10 * value))
    return model


def test_floats_are_averaged_and_counters_kept() -> None:
    mean = average_weights({"a": net(1.0), "b": net(2.0), "c": net(6.0)})
    assert torch.equal(mean["0.weight"], torch.full((2, 3), 3.0))
    assert torch.equal(mean["1.bias"], torch.full((2,), 3.0))
    assert mean["1.num_batches_tracked"] == 10 and mean.keys() == net(0).state_dict().keys()


def test_linear_models_average_their_predictions() -> None:
    torch.manual_seed(0)
    models = {name: nn.Linear(5, 4) for name in "ab"}
    both, x = nn.Linear(5, 4), torch.randn(7, 5)
    both.load_state_dict(average_weights(models))
    torch.testing.assert_close(both(x), (models["a"](x) + models["b"](x)) / 2)


def test_other_shapes_are_named() -> None:
    with pytest.raises(ModelError, match=r"b: 0\.bias is \[4\], in a \[2\]"):
        average_weights({"a": net(1.0), "b": net(1.0, width=4)})
    with pytest.raises(ModelError, match=r"b: 0\.bias is missing, in a"):
        average_weights({"a": net(1.0), "b": nn.Sequential()})
