"""Scale groups: the right ones are found, and scaling any of them by anything changes nothing."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quant.nets import TinyNet, randomize
from torch import fx, nn

from calibration.scale_groups import ScaleGroup, scale, scale_groups
from qmnv3.models.network import build_model
from qmnv3.preprocessing import Preprocessing
from qmnv3.quant.fake_quant import FakeQuantize, QuantHardswish
from qmnv3.quant.prepare import prepare

SIDE = 32
# Of the largest logit. In float64 only the algebra is seen; in float32 an untrained Large makes 4e-3 of 1e-7.
FLOAT64, FLOAT32 = 1e-11, 1e-2


def built_in(name: str, nonlinearity: str = "paper") -> nn.Module:
    return build_model(name, width=0.25, num_classes=7, head_width=24, nonlinearity=nonlinearity)


class Residual(nn.Module):
    """Two blocks that add to the stem, the first summand as `activation` gives it."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.stem, self.activation = nn.Conv2d(3, 6, 3, 2), activation
        self.first, self.second = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.stem(x))
        x = x + self.first(x)
        x = torch.relu(x + self.second(x))
        return self.head(self.pool(x)).flatten(1)


class Gated(nn.Module):
    """Multiplies a tensor by `gate` of an h-swish, which is an operation of its own there."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.a, self.activation, self.gate, self.b = (
            nn.Conv2d(3, 4, 1),
            nn.Hardswish(),
            gate,
            nn.Conv2d(3, 4, 1),
        )
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.gate(self.activation(self.a(x)))
        return self.head(self.pool(self.b(x) * gate)).flatten(1)


class Product(nn.Module):
    """Multiplies two tensors, neither of which is a gate in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(torch.relu(self.c(self.a(x) * self.b(x))))).flatten(1)


def flattened_map() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, 8), nn.Hardswish(), nn.Flatten(), nn.Linear(64, 5))


NETS: dict[str, Callable[[], nn.Module]] = {
    **{
        name: functools.partial(built_in, name)
        for name in ("large", "small", "v2", "large_minimalistic", "small_minimalistic")
    },
    "large, ReLU": lambda: built_in("large", "relu"),
    "small, h-swish": lambda: built_in("small", "hswish"),
    "large, h-swish from 112": lambda: built_in("large", "hswish@112"),
    "small, swish from 40": lambda: built_in("small", "swish@40"),
    "hard-sigmoid of h-swish": lambda: Gated(nn.Hardsigmoid()),
    "sigmoid of h-swish": lambda: Gated(nn.Sigmoid()),
    "v2, h-swish": lambda: built_in("v2", "hswish"),
    "v2, ReLU": lambda: built_in("v2", "relu"),
    "tiny net": TinyNet,
    "flattened map": flattened_map,
    "residuals": lambda: Residual(nn.Hardswish()),
    "product": Product,
}


def prepared(model: nn.Module) -> fx.GraphModule:
    return prepare(randomize(model), Preprocessing(SIDE, SIDE))


@functools.cache
def known(name: str, dtype: torch.dtype) -> tuple[fx.GraphModule, tuple[ScaleGroup, ...]]:
    """The prepared network and its groups."""
    torch.manual_seed(0)
    graph = prepared(NETS[name]()).to(dtype).requires_grad_(False)
    return graph, scale_groups(graph)


@contextmanager
def restored(graph: fx.GraphModule) -> Iterator[None]:
    """Undo all scaling in the end (copying a traced network takes longer than running it)."""
    saved = [(parameter, parameter.clone()) for parameter in graph.parameters()]
    try:
        yield
    finally:
        for parameter, value in saved:
            parameter.copy_(value)
        for module in graph.modules():
            if isinstance(module, FakeQuantize | QuantHardswish):
                module.factors = None


def drawn_factors(group: ScaleGroup, seed: int, spread: float) -> torch.Tensor:
    exponents = torch.rand(group.channels, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.exp2(spread * exponents)


@torch.inference_mode()
def error_of_scaling(name: str, dtype: torch.dtype, chosen: Sequence[int], seed: int, spread: float) -> float:
    """Largest change of a logit, relative to the largest logit."""
    graph, groups = known(name, dtype)
    x = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)).to(dtype)
    expected = graph(x)
    with restored(graph):
        for step, index in enumerate(chosen):
            scale(groups[index], drawn_factors(groups[index], seed + step, spread))
        got = graph(x)
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=8, deadline=None)
@given(data=st.data(), spread=st.floats(0.0, 6.0), seed=st.integers(0, 2**32))
def test_the_network_computes_what_it_did(name: str, data: st.DataObject, spread: float, seed: int) -> None:
    """Any sites, in any order, by factors of up to 2**spread and 2**-spread."""
    count = len(known(name, torch.float64)[1])
    chosen = data.draw(st.lists(st.integers(0, count - 1), min_size=1, unique=True), "groups")
    assert error_of_scaling(name, torch.float64, chosen, seed, spread) <= FLOAT64


@pytest.mark.parametrize("name", NETS)
def test_in_float32_only_rounding_is_left(name: str) -> None:
    """Also when every site is scaled twice."""
    everything = range(len(known(name, torch.float32)[1]))
    assert error_of_scaling(name, torch.float32, (*everything, *everything), 0, 3.0) <= FLOAT32


def described(model: nn.Module) -> list[tuple[set[str], set[str], set[str]]]:
    """Tensors, producers and consumers of every group."""
    return [
        tuple({site.name for site in part} for part in (group.tensors, group.producers, group.consumers))
        for group in scale_groups(prepared(model))
    ]


def test_groups_of_a_bottleneck_with_squeeze_and_excite() -> None:
    assert described(TinyNet()) == [
        ({"stem.0", "stem.2", "project.0", "add", "pool"}, {"stem.0", "project.0"}, {"expand.0", "head.0"}),
        ({"expand.0", "expand.2"}, {"expand.0"}, {"depthwise.0"}),
        ({"depthwise.0", "se.pool", "mul"}, {"depthwise.0"}, {"se.reduce", "project.0"}),
        ({"se.reduce"}, {"se.reduce"}, {"se.expand"}),
        ({"head.0", "head.2"}, {"head.0"}, {"head.4"}),
    ]  # not the image, the gate se.expand, or the logits head.4


def test_summands_agree() -> None:
    tensors = {"stem", "activation", "first", "add", "second", "add_1", "pool"}
    expected = (tensors, {"stem", "first", "second"}, {"first", "second", "head"})
    assert described(Residual(nn.Hardswish())) == [expected]


def test_relu6_makes_all_that_it_is_added_to_rigid() -> None:
    assert described(Residual(nn.ReLU6())) == []


@pytest.mark.parametrize("gate", [nn.Hardsigmoid(), nn.Sigmoid()])
def test_what_a_sigmoid_reads_is_rigid(gate: nn.Module) -> None:
    assert described(Gated(gate)) == [({"b", "mul", "pool"}, {"b"}, {"head"})]


def test_swish_makes_all_that_it_is_added_to_rigid() -> None:
    assert described(Residual(nn.SiLU())) == []


def test_a_product_of_two_free_tensors_is_rigid() -> None:
    assert described(Product()) == [({"c", "pool"}, {"c"}, {"head"})]


def test_a_flattened_map_repeats_each_factor() -> None:
    graph = prepared(flattened_map())
    (group,) = scale_groups(graph)
    weight = graph.get_submodule("3").layer.weight
    before = weight.detach().clone().reshape(5, 4, 16)
    scale(group, torch.tensor([1.0, 2.0, 4.0, 8.0]))
    expected = before / torch.tensor([1.0, 2.0, 4.0, 8.0]).reshape(1, 4, 1)
    torch.testing.assert_close(weight.detach(), expected.reshape(5, 64), rtol=0, atol=0)


def test_depthwise_consumers_mix_nothing() -> None:
    groups = scale_groups(prepared(TinyNet()))
    assert [[site.name for site in group.mixing_consumers] for group in groups[:2]] == [
        ["expand.0", "head.0"],
        [],
    ]


def hard_swish_network(shift: float) -> nn.Module:
    """Its h-swish reads values around `shift`."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Hardswish(), nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1))
    model[0].bias.data += shift
    return model.eval()


@torch.inference_mode()
def test_without_gates_hard_swish_is_exact_where_it_is_linear() -> None:
    x = torch.rand(2, 3, 8, 8)
    model = hard_swish_network(8.0)
    assert float(model[0](x).min()) > 6.0
    graph = prepare(model, Preprocessing(8, 8)).requires_grad_(False)
    factors = torch.tensor([0.5, 0.7, 1.0, 3.0])
    scale(scale_groups(graph)[0], factors, inputs=factors)
    torch.testing.assert_close(graph(x), model(x), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_without_gates_hard_swish_sees_the_scaled_input() -> None:
    x = torch.randn(2, 3, 8, 8)
    model = hard_swish_network(0.0)
    graph = prepare(model, Preprocessing(8, 8)).requires_grad_(False)
    inputs, outputs = torch.tensor([0.5, 0.7, 1.0, 3.0]), torch.tensor([0.6, 0.8, 1.0, 2.5])
    scale(scale_groups(graph)[0], outputs, inputs)
    made = nn.functional.hardswish(inputs.reshape(1, 4, 1, 1) * model[0](x))
    expected = model[3](model[2](made / outputs.reshape(1, 4, 1, 1)))
    torch.testing.assert_close(graph(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("factors", [[1.0, 1.0, 1.0], [0.0] * 8, [-1.0] * 8, [float("nan")] * 8])
def test_impossible_factors_are_refused(factors: list[float]) -> None:
    group = scale_groups(prepared(TinyNet()))[0]
    with pytest.raises(ValueError, match=r"stem\.0: needs 8 factors > 0"):
        scale(group, torch.tensor(factors))
    with pytest.raises(ValueError, match=r"stem\.0: needs 8 factors > 0"):
        scale(group, torch.ones(8), inputs=torch.tensor(factors))
