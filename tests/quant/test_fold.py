"""BN folding against torch's own eval-mode composition."""

import copy

import pytest
import torch
from quant.nets import TinyNet, randomize
from torch import nn

from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.fold import fold_all, fold_batch_norm, promised
from qmnv3.quant.prepare import prepare
from qmnv3.quant.sites import read_sites
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


@pytest.mark.parametrize("affine", [True, False])
def test_promise_is_what_the_norm_gives_on_its_own_data(affine: bool) -> None:
    torch.manual_seed(1)
    # A large eps and a nearly constant channel: the std is then well below |weight|.
    norm = nn.BatchNorm2d(5, eps=0.1, momentum=None, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(64, 5, 8, 8) * torch.tensor([0.0, 0.1, 1.0, 2.0, 3.0]).reshape(-1, 1, 1) + 1.0
    norm.train()(x)
    output = norm.eval()(x)
    normal = promised(norm)
    torch.testing.assert_close(normal.mean, output.mean((0, 2, 3)), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.std, output.std((0, 2, 3)), atol=1e-5, rtol=1e-3)


def test_a_norm_that_saw_no_data_promises_nothing() -> None:
    assert promised(nn.BatchNorm2d(4)) is None


def test_promises_survive_prepare_and_copies_by_layer() -> None:
    model = randomize(TinyNet())
    prepared = copy.deepcopy(prepare(model, Preprocessing(32, 32)))
    normals = {site.name: site.normal for site in read_sites(prepared) if site.normal is not None}
    assert set(normals) == {"stem.0", "expand.0", "depthwise.0", "project.0", "head.0"}
    torch.testing.assert_close(normals["expand.0"].mean, model.expand[1].bias, atol=0, rtol=0)
