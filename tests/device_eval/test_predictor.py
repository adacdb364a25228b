"""The Pixel predictor: costs counted by hand and by torch, the fit on worked numbers, the paper as judge."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.pixel_predictor import count_network, tables
from device_eval.lint.readers.run import describe_graph
from device_eval.predictor import predict, predict_graph
from device_eval.predictor.costs import Cost
from device_eval.predictor.fit import fit, fitted
from device_eval.predictor.published import (
    PIXELS,
    Network,
    Published,
    network_costs,
    networks,
    placements,
    published,
)
from qmnv3.ir import Add, Conv2d, HardSwish, Mean, QuantGraph, Tensor
from qmnv3.models.count import count
from qmnv3.models.network import build_model

DOC = Path(__file__).parents[2] / "docs" / "prediction.md"
HERE = Path("graph")


def hand_made_graph() -> QuantGraph:
    """A 3x3 convolution of 4x4x3 to 2x2x8, h-swish, a residual of itself, the mean."""
    tensors = [
        Tensor("image", (1, 4, 4, 3), "float32"),
        Tensor("weight", (8, 3, 3, 3), "float32", None, np.zeros((8, 3, 3, 3), np.float32)),
        Tensor("bias", (8,), "float32", None, np.zeros(8, np.float32)),
        *(Tensor(name, (1, 2, 2, 8), "float32") for name in ("conv", "hswish", "sum")),
        Tensor("mean", (1, 1, 1, 8), "float32"),
    ]
    ops = (
        Conv2d("conv", ("image", "weight", "bias"), "conv"),
        HardSwish("hswish", ("conv",), "hswish"),
        Add("sum", ("hswish", "hswish"), "sum"),
        Mean("mean", ("sum",), "mean"),
    )
    return QuantGraph({t.name: t for t in tensors}, ops, ("image",), ("mean",))


def test_costs_by_hand() -> None:
    made = predict_graph(hand_made_graph(), HERE)
    # 2x2 pixels of 8 channels, 3x3x3 taps each; 48 elements in and 32 out; weights and biases.
    assert made.by_kind["Conv"] == Cost(32 * 27, 48 + 32, 216 + 8, 4 * (80 + 224))
    # x + 3 reads and writes, the product reads two and writes one.
    assert made.by_kind["HardSwish"] == Cost(0, 5 * 32, 0, 4 * 160)
    assert made.by_kind["Add"] == Cost(0, 3 * 32, 0, 4 * 96)
    assert made.by_kind["Mean"] == Cost(0, 32 + 8, 0, 4 * 40)
    assert made.weight_bytes == 4 * 224
    assert made.cost == Cost(864, 80 + 160 + 96 + 40, 224, 4 * (376 + 224))


def test_weights_that_cannot_be_read_are_constants() -> None:
    """Such as int4: the tensor has a shape, but no data."""
    described = describe_graph(hand_made_graph(), HERE)
    weight = replace(described.tensors["weight"], data=None, dtype="other")
    made = predict(replace(described, tensors={**described.tensors, "weight": weight}))
    assert made.by_kind["Conv"] == Cost(32 * 27, 48 + 32, 216 + 8, 4 * 80 + 216 + 4 * 8)


def test_parts_add_up_to_the_prediction() -> None:
    for device in predict_graph(hand_made_graph(), HERE).devices:
        assert sum(device.by_kind_ms.values()) == pytest.approx(device.predicted_ms)
        low, high = device.interval_ms
        assert low < device.predicted_ms < high


def row(macs: int, activations: int, ms: float) -> Published:
    return Published(0, Network("large"), ms, Cost(macs, activations))


def test_a_sum_of_costs_is_found_again() -> None:
    rows = tuple(
        row(macs * 10**6, moved * 10**6, 2 * macs + 3 * moved)
        for macs, moved in ((1, 5), (4, 1), (9, 7), (2, 2))
    )
    found = fit(rows, ("macs", "activations"))
    assert found.ms_per_million == pytest.approx({"macs": 2.0, "activations": 3.0})
    assert found.leave_one_out.worst < 1e-9
    assert found.ms(Cost(10**6, 10**6)) == pytest.approx(5.0)


def test_relative_errors_intervals_and_coverage_by_hand() -> None:
    """Equal costs, 1, 2 and 4 ms: sum((c / ms - 1)^2) is least at c = sum(1 / ms) / sum(1 / ms^2) = 4/3."""
    found = fit(tuple(row(10**6, 0, ms) for ms in (1.0, 2.0, 4.0)), ("macs",))
    assert found.ms_per_million["macs"] == pytest.approx(4 / 3)
    # Without the first 0.75 / 0.3125, without the second 1.25 / 1.0625, without the third 1.5 / 1.25 ms.
    assert found.leave_one_out.relative == pytest.approx((2.4 - 1, 20 / 17 / 2 - 1, 1.2 / 4 - 1))
    # 1.2 instead of 4 ms is the farthest off, by a factor of 10/3.
    assert found.interval_ms(Cost(10**6)) == pytest.approx((0.4, 40 / 9))
    assert found.coverage == pytest.approx(3 / 4)


def test_a_cost_is_never_negative() -> None:
    """The more activations, the faster: plain least squares would give them -1."""
    found = fit((row(2 * 10**6, 10**6, 1.0), row(4 * 10**6, 10**6, 3.0)), ("macs", "activations"))
    assert found.ms_per_million["activations"] == 0.0
    assert found.ms_per_million["macs"] > 0


def test_table_9_is_predicted_without_the_network_itself() -> None:
    found = fitted(1, "float32")
    errors = [
        abs(error)
        for row, error in zip(found.rows, found.leave_one_out.relative, strict=True)
        if row.table == 9
    ]
    assert len(errors) == 20
    assert np.median(errors) <= 0.05
    assert max(errors) <= 0.15


@pytest.mark.parametrize("family", ["multipliers", "resolutions", "V3-Large", "V3-Small", "V2"])
def test_a_whole_family_is_predicted_without_it(family: str) -> None:
    errors = fitted(1, "float32").families[family]
    assert errors.median <= 0.06
    assert errors.worst <= 0.2


def test_table_5_is_ordered_as_published_without_being_fitted() -> None:
    found = fitted(1, "float32")
    variants = {row.network.nonlinearity for row in found.rows}
    assert variants == {"paper"}
    rows = placements()
    by_prediction = sorted(rows, key=lambda row: found.ms(row.cost))
    names = [(row.network.nonlinearity, row.network.width) for row in by_prediction]
    assert names == [("paper", 0.85), ("relu", 1), ("hswish@112", 1), ("paper", 1), ("hswish@16", 1)]
    for row in rows:
        assert found.ms(row.cost) == pytest.approx(row.ms, rel=0.1)


def test_each_phone_has_its_published_latencies() -> None:
    """Table 9's 20 and V2 twice from Table 3; Table 3's six networks; Table 4's four."""
    counts = {
        (p, precision): len(published(p, precision)) for p in PIXELS for precision in ("float32", "int8")
    }
    assert counts == {(p, "float32"): 22 if p == 1 else 6 for p in PIXELS} | {(p, "int8"): 4 for p in PIXELS}
    large = {(p, q): published(p, q)[0 if p > 1 or q == "int8" else 1].ms for p, q in counts}
    assert [large[p, "float32"] for p in PIXELS] == [66, 77, 52.6]
    assert [large[p, "int8"] for p in PIXELS] == [57, 55.9, 38.9]


@pytest.mark.parametrize(
    "network",
    [Network("small", 1.0, 96), Network("v2", 0.35), Network("large", nonlinearity="hswish@112")],
    ids=str,
)
def test_stored_costs_are_those_of_the_networks(network: Network) -> None:
    stored, counted = network_costs()[network], count_network(network)
    assert (stored.macs, stored.activations, stored.constants) == (
        counted.macs,
        counted.activations,
        counted.constants,
    ), "run `python -m benchmarks.pixel_predictor --networks`"
    model = build_model(network.model, width=network.width, nonlinearity=network.nonlinearity)
    assert stored.macs == count(model, network.resolution).madds


def test_every_published_network_is_stored() -> None:
    assert set(network_costs()) == set(networks())
    assert len(networks()) == 26


def test_operations_that_no_fitted_network_has_are_named() -> None:
    described = describe_graph(hand_made_graph(), HERE)
    ops = tuple(replace(op, kind="Tanh") if op.kind == "HardSwish" else op for op in described.ops)
    notes = predict(replace(described, ops=ops)).notes
    assert any("no fitted network has them: 1 Tanh" in note for note in notes), notes
    tensors = {**described.tensors, "sum": replace(described.tensors["sum"], dtype="int16")}
    notes = predict(replace(described, tensors=tensors)).notes
    assert any(note.startswith("1 operations in 16 bits") for note in notes), notes
    assert not any("no fitted network" in note for note in notes), notes


def test_the_doc_holds_the_current_tables() -> None:
    command = "python -m benchmarks.pixel_predictor"
    blocks = re.findall(
        rf"<!-- begin: {command} -->\n(.*?)\n<!-- end -->", DOC.read_text(encoding="utf-8"), re.S
    )
    assert "\n\n".join(blocks) == tables(), f"run `{command}` and put its output into docs/prediction.md"
