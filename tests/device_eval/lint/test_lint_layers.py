"""Weights and channels: what the rules prove must hold when LiteRT runs the file."""

import numpy as np
import pytest
from tiny_tflite import TinyTflite, invoke, linted

from device_eval.lint import Finding

RNG = np.random.default_rng(3)
MAP = (1, 4, 4, 4)


def of_rule(found: list[Finding], rule: str) -> list[Finding]:
    return [finding for finding in found if finding.rule == rule]


def outputs(model: TinyTflite, x: int, y: int) -> np.ndarray:
    """Integers of every channel [values, channels] on extreme and random inputs."""
    images = [np.full(MAP, end, np.int8) for end in (-128, 127)]
    images += [RNG.integers(-128, 128, MAP, np.int8) for _ in range(30)]
    content = model.bytes([x], [y])
    return np.concatenate([invoke(content, image).reshape(-1, 4) for image in images]).astype(int)


def test_constant_channels_are_constant_in_litert() -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, 0.1)
    weight = RNG.integers(-100, 100, (4, 1, 1, 4))
    weight[1] = 0
    y = model.conv(
        "y", x, weight, [0.01] * 4, (0.1, -128), bias=[0, 2000, 10**6, -(10**6)], activation="relu"
    )
    (found,) = of_rule(linted(model, [x], y), "constant-channels")
    values = outputs(model, x, y)
    assert [np.unique(column).size == 1 for column in values.T] == [False, True, True, True]
    assert "3 of 4 channels" in found.what and "1 have only weights of 0" in found.what
    assert "1 sit at the lower end" in found.what and "1 sit at the upper end" in found.what


def test_channel_with_few_levels_has_no_more_in_litert() -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, 0.1)
    y = model.conv("y", x, np.full((4, 1, 1, 4), 100), [0.01, 0.01, 0.0001, 0.01], (0.4, 0))
    (found,) = of_rule(linted(model, [x], y), "few-levels")
    # 400 * [-128, 127] steps of 0.1 * 0.0001 / 0.4 are -1.28 .. 1.27 output steps.
    assert "1 of 4 channels" in found.what and "least: 3" in found.what
    spread = np.ptp(outputs(model, x, y), axis=0)
    assert spread[2] <= 2 and (np.delete(spread, 2) > 200).all()


def test_ordinary_layer_is_clean() -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, 0.1)
    weight = RNG.integers(-127, 128, (4, 3, 3, 4))
    assert linted(model, [x], model.conv("y", x, weight, [0.01] * 4, (0.4, 0))) == []


@pytest.mark.parametrize(
    ("depthwise", "small", "severity"),
    [(True, 2, "warning"), (True, 90, "note"), (False, 2, "warning"), (False, 90, None)],
)
def test_per_tensor_weights(depthwise: bool, small: int, severity: str | None) -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, 0.1)
    weight = np.full((4, 3, 3, 4), 127)
    weight[3] = small
    weight = weight.transpose(3, 1, 2, 0)[:1] if depthwise else weight
    found = of_rule(
        linted(model, [x], model.conv("y", x, weight, 0.01, (4.0, 0), depthwise=depthwise)),
        "per-tensor-weights",
    )
    assert [f.severity for f in found] == ([severity] if severity else [])
    if small == 2:
        assert "from 2 to 127 steps (63.5 to 1); 1 channels use fewer than 16" in found[0].what


def test_per_channel_depthwise_weights_are_fine() -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, 0.1)
    weight = RNG.integers(-127, 128, (1, 3, 3, 4))
    y = model.conv("y", x, weight, [0.01, 0.1, 0.3, 0.02], (1.0, 0), depthwise=True)
    assert not of_rule(linted(model, [x], y), "per-tensor-weights")


@pytest.mark.parametrize(("clip", "found"), [(3.0, 1), (1.0, 0)])
def test_weights_cut_off_by_a_small_scale(clip: float, found: int) -> None:
    model = TinyTflite()
    x = model.tensor("x", (1, 4, 4, 32), 0.1)
    real = RNG.normal(0, 1, (8, 1, 1, 32))
    steps = np.clip(np.rint(clip * 127 * real / np.abs(real).max()), -127, 127)
    y = model.conv("y", x, steps, [0.01] * 8, (1.0, 0))
    assert len(of_rule(linted(model, [x], y), "saturated-weights")) == found


def test_binary_weights_are_not_cut_off() -> None:
    model = TinyTflite()
    x = model.tensor("x", (1, 4, 4, 32), 0.1)
    y = model.conv("y", x, RNG.choice([-127, 127], (8, 1, 1, 32)), [0.01] * 8, (1.0, 0))
    assert not of_rule(linted(model, [x], y), "saturated-weights")


def test_sum_that_leaves_int32_wraps_in_litert() -> None:
    model = TinyTflite()
    x = model.tensor("x", MAP, 0.1)
    weight = np.full((4, 1, 1, 4), 127)
    y = model.conv("y", x, weight, [1e-6] * 4, (1.0, 0), bias=[0, 2**31 - 1, 0, 0])
    (found,) = of_rule(linted(model, [x], y), "accumulator-overflow")
    assert "1 of 4 channels" in found.what and "channel 1" in found.what
    ends = [invoke(model.bytes([x], [y]), np.full(MAP, end, np.int8))[0, 0, 0, 1] for end in (0, 127)]
    assert ends[0] > 0 > ends[1], "a larger input gave a smaller sum"
