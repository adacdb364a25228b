"""h-swish inputs and hard-sigmoid gates, in every form they are written."""

import re
from pathlib import Path

import numpy as np
import pytest
from tiny_tflite import TinyTflite, linted

from device_eval.lint import Finding
from device_eval.report import build, gather
from qmnv3.quant.affine import asymmetric_qparams

MAP = (1, 4, 4, 4)
FLOORED, DEEP = (10.0 / 255, -128 + 77), (40.0 / 255, 64)
"""Grids of [-3.02, 6.98] and [-30.1, 9.9]."""

SIX = (6 / 255, -128)


def of_rule(found: list[Finding], rule: str) -> list[Finding]:
    return [finding for finding in found if finding.rule == rule]


def add_mul(model: TinyTflite, x: int, gate_grid: tuple[float, int], activation: str = "none") -> int:
    three = model.tensor("three", (1,), 3 / 127, data=127)
    gate = model.binary("ADD", x, three, "gate", gate_grid, activation)
    return model.binary("MUL", x, gate, "y", (0.3, -100))


def hard_swish(form: str, grid: tuple[float, int]) -> tuple[TinyTflite, int, int]:
    model = TinyTflite()
    x = model.tensor("x", MAP, *grid)
    match form:
        case "op":
            return model, x, model.hard_swish(x, "y", (0.05, -120))
        case "add-mul":
            return model, x, add_mul(model, x, SIX)
        case "sixth first":
            three = model.tensor("three", (1,), 3 / 127, data=127)
            sixth = model.tensor("sixth", (1,), 1 / 6 / 127, data=127)
            gate = model.binary("ADD", x, three, "gate", SIX, "relu6")
            scaled = model.binary("MUL", x, sixth, "scaled", (grid[0] / 6, grid[1]))
            return model, x, model.binary("MUL", scaled, gate, "y", (0.05, -100))
        case "depthwise" | "depthwise, divided by 6":
            top = 6 if form == "depthwise" else 1
            slope = np.float32(top / 6 / 127)
            bias = np.rint(top / 2 / (np.float32(grid[0]) * slope))
            weight, scales = np.full((1, 1, 1, 4), 127), [float(slope)] * 4
            gate = model.conv("gate", x, weight, scales, (top / 255, -128), depthwise=True, bias=bias)
            return model, x, model.binary("MUL", x, gate, "y", (0.05 * top, -100))
    raise ValueError(form)


@pytest.mark.parametrize("form", ["op", "add-mul", "sixth first", "depthwise", "depthwise, divided by 6"])
def test_hard_swish_input_reaching_below_minus_three(form: str) -> None:
    model, x, y = hard_swish(form, DEEP)
    (found,) = of_rule(linted(model, [x], y), "h-swish-range")
    # 172 of 255 steps of 0.157 lie below -3; 6 / 0.157 = 38.2 are left for the curve.
    assert "covers -30.12 .. 9.882" in found.what and "68% of its levels" in found.what
    assert re.search(r"38\.[23] steps are left", found.what) and found.severity == "warning"
    model, x, y = hard_swish(form, FLOORED)
    found = linted(model, [x], y)
    assert not of_rule(found, "h-swish-range") and not of_rule(found, "hard-sigmoid-range")


def test_equalized_channels_are_floored_each_at_its_own() -> None:
    """Channels scaled by 1, 2, 4, 8: the widest needs -24, so a range down to -24 wastes nothing."""
    model = TinyTflite()
    x = model.tensor("x", MAP, 64 / 255, -128 + 96)
    scales = [1 / 127 / a for a in (1, 2, 4, 8)]
    bias = np.rint(3 / (np.float32(64 / 255) * np.asarray(scales, np.float32)))
    gate = model.conv("gate", x, np.full((1, 1, 1, 4), 127), scales, SIX, depthwise=True, bias=bias)
    y = model.binary("MUL", x, gate, "y", (1.0, -100))
    found = linted(model, [x], y)
    assert not of_rule(found, "h-swish-range") and not of_rule(found, "hard-sigmoid-range")


def test_input_that_something_else_reads_keeps_its_range() -> None:
    model, x, y = hard_swish("op", DEEP)
    both = model.binary("ADD", x, y, "both", (0.2, 0))
    assert not of_rule(linted(model, [x], both), "h-swish-range")


def test_plain_sum_times_x_is_no_hard_swish() -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, *DEEP)
    y = add_mul(model, x, (43.0 / 255, 46))  # covers -27 .. 13: x + 3 without a clamp
    found = linted(model, [x], y)
    assert not of_rule(found, "h-swish-range") and not of_rule(found, "hard-sigmoid-range")


@pytest.mark.parametrize(
    ("gate", "severity"),
    [(6 / 255, None), (6 / 256, None), (5.9 / 255, "note"), (4.96 / 255, "warning"), (6.9 / 255, "warning")],
)
def test_gate_of_hard_swish(gate: float, severity: str | None) -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, *FLOORED)
    found = of_rule(linted(model, [x], add_mul(model, x, (gate, -128), "relu6")), "hard-sigmoid-range")
    assert [f.severity for f in found] == ([severity] if severity else [])
    assert all(f.where == "op 0 ADD gate" for f in found)


@pytest.mark.parametrize(("top", "wrong"), [(6.0, 0), (5.0, 2)])
def test_hard_sigmoid_of_a_layer_times_a_sixth(top: float, wrong: int) -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, 0.1)
    weight = np.full((4, 1, 1, 4), 90)
    relu6 = model.conv("relu6", x, weight, [0.01] * 4, (top / 255, -128), activation="relu6")
    sixth = model.tensor("sixth", (1,), 1 / 6 / 127, data=127)
    y = model.binary("MUL", relu6, sixth, "gate", (top / 6 / 256, -128))
    found = of_rule(linted(model, [x], y), "hard-sigmoid-range")
    assert len(found) == wrong
    if wrong:
        assert {f.where for f in found} == {"op 0 CONV_2D relu6", "op 1 MUL gate"}
        assert any("covers 0 .. 5, not 0 .. 6: everything above 5 is cut off" in f.what for f in found)


@pytest.mark.parametrize(("shrink", "count", "found"), [(1.0, 3, 1), (1.0, 2, 0), (0.9, 3, 0)])
def test_ranges_that_are_plain_extremes(shrink: float, count: int, found: int) -> None:
    """h-swish outputs ending where their inputs do; two may be a coincidence, three are none."""
    model = TinyTflite()
    x = y = model.tensor("x", MAP, *FLOORED)
    for i, top in enumerate((5.0, 8.0, 11.0)[:count]):
        a = model.binary("MUL", y, y, f"a{i}", ((top + 3) / 255, -128 + round(3 / ((top + 3) / 255))))
        high = model.graph.tensors[a].quantization.scale[0] * (
            127 - model.graph.tensors[a].quantization.zeroPoint[0]
        )
        scale = (high * shrink + 0.375) / 255
        y = model.hard_swish(a, f"y{i}", (scale, -128 + round(0.375 / scale)))
    assert len(of_rule(linted(model, [x], y), "extreme-ranges")) == found


def test_extremes_are_seen_through_rounded_zero_points() -> None:
    """Few levels lie below 0, so that rounding the zero point moves the upper end: 8 to 8.32."""
    model = TinyTflite()
    x = y = model.tensor("x", MAP, *FLOORED)
    for i, top in enumerate((5.0, 8.0, 13.0)):
        inner, outer = asymmetric_qparams(-3.0, top), asymmetric_qparams(-0.375, top)
        a = model.binary("MUL", y, y, f"a{i}", (float(inner.scale), int(inner.zero_point)))
        y = model.hard_swish(a, f"y{i}", (float(outer.scale), int(outer.zero_point)))
    assert len(of_rule(linted(model, [x], y), "extreme-ranges")) == 1


def test_an_h_swish_without_output_is_no_site(tmp_path: Path) -> None:
    """As in a damaged file; the report lists sites by their output."""
    model, x, y = hard_swish("op", FLOORED)
    model.model.subgraphs[0].operators[-1].outputs = np.zeros(0, np.int32)
    build(gather([model.write(tmp_path / "m.tflite", [x], [y])]))
