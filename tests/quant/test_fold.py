"""BN folding against torch's own eval-mode composition."""

import pytest
import torch
from quant.nets import TinyNet, randomize
from torch import nn

from qmnv3.quant.fold import fold_all, fold_batch_norm
from qmnv3.quant.trace import trace

# Folding rounds each weight once in float32; activations here are of order 1.
TOLERANCE = 1e-5


@pytest.mark.parametrize("eps", [1e-5, 1e-3, 0.1])
@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), (2, 3, 8, 8)),
        (nn.Conv2d(3, 6, 3, bias=True), nn.BatchNorm2d(6), (2, 3, 8, 8)),
        (nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.BatchNorm2d(6), (2, 6, 8, 8)),
        (nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6, affine=False), (2, 3, 8, 8)),
        (nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6), (4, 5)),
        (nn.Linear(5, 6, bias=True), nn.BatchNorm1d(6), (4, 5)),
    ],
)
def test_folded_layer_equals_layer_then_norm(layer: nn.Module, norm: nn.Module, shape, eps: float) -> None:
    torch.manual_seed(0)
    norm.eps = eps
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.01, 2.0)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(shape)
    expected = norm.eval()(layer(x))
    fold_batch_norm(layer, norm)
    torch.testing.assert_close(layer(x), expected, atol=TOLERANCE * 10, rtol=1e-4)


def test_norm_without_statistics_is_refused() -> None:
    with pytest.raises(ValueError, match="running statistics"):
        fold_batch_norm(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, track_running_stats=False))


def test_whole_network_folds_and_computes_the_same() -> None:
    model = randomize(TinyNet())
    x = torch.randn(2, 3, 32, 32)
    expected = model(x)
    module = trace(model, 32)
    fold_all(module)
    assert not any(isinstance(m, nn.BatchNorm2d) for n, m in module.named_modules() if _called(module, n))
    torch.testing.assert_close(module(x), expected, atol=TOLERANCE, rtol=1e-4)


def _called(module, name: str) -> bool:
    return any(node.op == "call_module" and node.target == name for node in module.graph.nodes)
