"""Blocks partition the graph, with one tensor between them, and are MobileNet's bottlenecks."""

import pytest
import torch
from quant.nets import TinyNet
from torch import fx, nn

from calibration.blocks import find_blocks
from calibration.frontier import run_node
from qmnv3.models.network import build_model
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.prepare import prepare


def prepared(model: nn.Module, resolution: int = 32) -> fx.GraphModule:
    return prepare(model.eval(), Preprocessing(resolution, resolution))


def chain(layers: int) -> nn.Module:
    convs = [nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(layers)]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))


@pytest.mark.parametrize("model", [TinyNet(), chain(20)], ids=["bottleneck", "no linear tensors"])
def test_blocks_one_after_the_other_are_the_network(model: nn.Module) -> None:
    graph = prepared(model)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    blocks = find_blocks(graph)
    value = x
    for block in blocks:
        values = {block.start: value}  # nothing but the block's one input
        for node in block.nodes:
            values[node] = run_node(graph, node, values.__getitem__)
        value = values[block.end]
    assert len(blocks) > 1 and [block.last for block in blocks] == [*[False] * (len(blocks) - 1), True]
    assert torch.equal(value, graph(x))


@pytest.mark.parametrize("nonlinearity", ["paper", "swish"])
def test_blocks_of_v3_small_are_the_rows_of_table_2(nonlinearity: str) -> None:
    """Eleven bottlenecks (the stem joins the first), and what is behind the last; the paper's Table 2."""
    blocks = find_blocks(prepared(build_model("small", seed=0, nonlinearity=nonlinearity), 224))
    assert len(blocks) == 12
    channels = [16, 24, 24, 40, 40, 40, 48, 48, 96, 96, 96, 1000]
    assert [block.site.output_shape[1] for block in blocks] == channels


def test_a_long_chain_is_cut() -> None:
    assert max(block.layers for block in find_blocks(prepared(chain(20)))) <= 8
