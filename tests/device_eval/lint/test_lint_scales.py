"""Scales that are no scales, dead, too coarse or too wide."""

import numpy as np
import pytest
from tiny_tflite import TinyTflite, linted

from device_eval.lint import Finding

MAP = (1, 4, 4, 4)


def of_rule(found: list[Finding], rule: str) -> list[Finding]:
    return [finding for finding in found if finding.rule == rule]


@pytest.mark.parametrize("scale", [0.0, -0.1, float("nan"), float("inf"), 1e-40])
def test_scale_that_is_none(scale: float) -> None:
    model = TinyTflite()
    a, b = model.tensor("a", MAP, 0.1), model.tensor("b", MAP, scale)
    (found,) = of_rule(linted(model, [a, b], model.binary("MUL", a, b, "y", (0.1, 0))), "invalid-scale")
    assert found.where == "tensor b" and found.severity == "error"


def test_one_unusable_scale_among_a_weights_channels() -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, 0.1)
    y = model.conv("y", x, np.ones((4, 1, 1, 4)), [0.1, 0.0, 0.1, 0.1], (0.1, 0))
    found = of_rule(linted(model, [x], y), "invalid-scale")
    assert [f.where for f in found] == ["tensor y/weight", "tensor y/bias"]
    assert "1 of 4 scales" in found[0].what


@pytest.mark.parametrize(("scale", "dead"), [(1e-9, True), (7.8e-9, True), (0.1, False), (0.1 * 0.01, False)])
def test_dead_output_of_a_layer(scale: float, dead: bool) -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, 0.1)
    weight = np.arange(1, 65).reshape(4, 1, 1, 16)[..., :4]
    y = model.conv("y", x, weight, [0.01] * 4, (scale, -128), activation="relu")
    assert bool(of_rule(linted(model, [x], y), "dead-scale")) == dead


def test_floor_of_one_step_is_not_dead_but_half_of_it_is() -> None:
    for factor, expected in ((1.0, 0), (0.5, 1)):
        model = TinyTflite()
        x = model.tensor("x", MAP, 0.1)
        y = model.conv("y", x, np.full((4, 1, 1, 4), 5), [0.01] * 4, (0.1 * 0.01 * factor, 0))
        assert len(of_rule(linted(model, [x], y), "dead-scale")) == expected


def test_weights_too_coarse_in_one_channel() -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, 0.1)
    weight = np.full((4, 1, 1, 4), 100)
    weight[2] = [0, 0, 1, 0]
    y = model.conv("y", x, weight, [0.01, 0.01, 30.0, 0.01], (0.5, 0))
    (found,) = of_rule(linted(model, [x], y), "coarse-weights")
    assert "in 1 of 4 channels" in found.what and "up to 6)" in found.what
    zeros = TinyTflite()
    x = zeros.tensor("x", MAP, 0.1)
    weight[2] = 0
    y = zeros.conv("y", x, weight, [0.01, 0.01, 30.0, 0.01], (0.5, 0))
    assert not of_rule(linted(zeros, [x], y), "coarse-weights")


@pytest.mark.parametrize(("scale", "wide"), [(0.04, False), (10.0, True)])
def test_range_that_an_addition_cannot_reach(scale: float, wide: bool) -> None:
    model = TinyTflite()
    a, b = model.tensor("a", MAP, 0.02), model.tensor("b", MAP, 0.02)
    found = of_rule(linted(model, [a, b], model.binary("ADD", a, b, "y", (scale, 0))), "wide-range")
    assert bool(found) == wide
    if wide:
        # Both cover [-2.56, 2.54], so the sum at most 10.2: two levels.
        assert "at most 2 of its 256 levels" in found[0].what
