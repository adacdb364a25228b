"""The three forms of a range, worked by hand."""

import math

import pytest
import torch
from torch import nn

from qmnv3.ir import QParams
from qmnv3.qat.codes import round_to_grid
from qmnv3.qat.ranges import (
    ClipRange,
    FixedRange,
    LearnedRange,
    LearnedRanges,
    MovingAverageRange,
    make_range,
)

START = QParams.per_tensor(0.1, -28)


def settle(grid: LearnedRange | MovingAverageRange | ClipRange) -> None:
    evaluate(grid)
    grid.settle(grid.numbers().tolist())


def evaluate(*grids: nn.Module) -> None:
    LearnedRanges([grid for grid in grids if isinstance(grid, LearnedRange)]).evaluate()


def test_moving_average_takes_in_each_batchs_ends() -> None:
    grid = MovingAverageRange(START, momentum=0.9)
    assert (float(grid.low), float(grid.high)) == pytest.approx((-10.0, 15.5))
    grid.observe(torch.tensor(-20.0), torch.tensor(5.5))
    assert float(grid.low) == pytest.approx(-10.0)
    grid.take(grid.seen)
    settle(grid)
    assert (float(grid.low), float(grid.high)) == pytest.approx((-11.0, 14.5))
    assert float(grid.scale.detach()) == pytest.approx(25.5 / 255) and int(grid.qparams.zero_point) == -18
    assert grid.bounds[:2] == (-110.0, 145.0)


def test_batches_of_one_step_count_as_one() -> None:
    grid = MovingAverageRange(START, momentum=0.0)
    for low, high in ((-3.0, 40.0), (-5.0, 4.0)):
        grid.observe(torch.tensor(low), torch.tensor(high))
    grid.take(grid.seen)
    assert (float(grid.low), float(grid.high)) == (-5.0, 40.0)
    assert grid.seen is None


def test_int16_stays_int16() -> None:
    """Its zero point is 0, and the larger end, 20, lies on 32767."""
    grid = make_range(
        "clip",
        QParams.per_tensor(0.001, 0, -32768, 32767),
        size=1,
        one_sided=True,
        floored=False,
        momentum=0.0,
    )
    assert isinstance(grid, MovingAverageRange)
    grid.take(torch.tensor([-20.0, 5.0]))
    settle(grid)
    assert grid.qparams == QParams.per_tensor(20 / 32767, 0, -32768, 32767)


def test_a_tensor_without_positive_values_keeps_its_grid() -> None:
    start = QParams.per_tensor(0.1, 127)
    grid = make_range("learned", start, size=1, one_sided=False, floored=False, momentum=0.9)
    assert isinstance(grid, FixedRange) and grid.qparams == start


def test_a_learned_zero_point_is_rounded_and_stays_in_the_grid() -> None:
    """From [-10, 15.5] to [-10, 31]: 41 / 255 is the step, and -10 lies 62.2 of them from 0."""
    grid = LearnedRange(START, size=100)
    with torch.no_grad():
        grid.log_high.add_(math.log(2.0))
    settle(grid)
    assert int(grid.qparams.zero_point) == -128 + 62
    assert float(grid.qparams.scale) == float(grid.scale.detach()) == pytest.approx(41 / 255)
    assert grid.bounds[:2] == (-62.0, 193.0)
    with torch.no_grad():
        grid.log_low.fill_(20.0)
    settle(grid)
    assert int(grid.qparams.zero_point) == 127


def test_ends_have_the_gradients_of_what_is_clipped_to_them() -> None:
    """[-10, 15.5]: -20 is clipped to the low end, 30 and 40 to the high one, 1 lies on the grid."""
    grid = LearnedRange(START, size=1)
    evaluate(grid)
    x = torch.tensor([[-20.0, 1.0, 30.0, 40.0]])
    real = round_to_grid(x / grid.scale, grid.bounds) * grid.scale
    real.sum().backward()
    assert real[0].tolist() == pytest.approx([-10.0, 1.0, 15.5, 15.5])
    slowness = 127**-0.5
    assert float(grid.log_low.grad) == pytest.approx(-10.0 * slowness, rel=1e-4)
    assert float(grid.log_high.grad) == pytest.approx(2 * 15.5 * slowness, rel=1e-4)


def test_ranges_are_evaluated_together() -> None:
    """[-10, 15.5], one from 0 to 12.75, and a floored [-10, 15.5]; each weighs another number in the sum."""
    grids = [
        LearnedRange(START, size=3),
        LearnedRange(QParams.per_tensor(0.05, -128), size=7),
        LearnedRange(START, size=9, floored=True),
    ]
    evaluate(*grids)
    numbers = [(0.1, 10.0), (0.05, 0.0), (0.1, 10.0)]
    for grid, expected in zip(grids, numbers, strict=True):
        assert grid.numbers().tolist() == pytest.approx(expected)
        assert float(grid.scale.detach()) == pytest.approx(expected[0])
    torch.stack([weight * grid.scale for weight, grid in enumerate(grids, 1)]).sum().backward()
    # d scale / d log(end) is end / 255, times LSQ's 1 / sqrt(size * Q_P): 255 without negative values.
    sizes = (3 * 127, 7 * 255, 9 * 127)
    for weight, size, end, grid in zip((1, 2, 3), sizes, (15.5, 12.75, 15.5), grids, strict=True):
        expected = weight * end / 255 / math.sqrt(size)
        assert float(grid.log_high.grad) == pytest.approx(expected, rel=1e-5)
    assert float(grids[0].log_low.grad) == pytest.approx(10.0 / 255 / math.sqrt(3 * 127), rel=1e-5)
    assert grids[2].log_low.grad is None


def test_the_low_end_of_what_h_swish_reads_stays() -> None:
    grid = LearnedRange(START, size=1, floored=True)
    evaluate(grid)
    (round_to_grid(torch.tensor([[-200.0, 300.0]]), grid.bounds) * grid.scale).sum().backward()
    assert grid.log_low.grad is None and float(grid.log_high.grad) > 0


def test_a_tensor_without_negative_values_keeps_its_zero_point() -> None:
    grid = LearnedRange(QParams.per_tensor(0.1, -128), size=100)
    assert [name for name, _ in grid.named_parameters()] == ["log_high"]
    settle(grid)
    assert grid.bounds[:2] == (0.0, 255.0) and float(grid.scale.detach()) == pytest.approx(0.1)


def test_the_gradient_of_pacts_clip_is_that_of_the_clipped_values() -> None:
    """Clip 25.5: of 1, 30 and 40 the last two are clipped; d sum / d log(clip) = 2 * 25.5."""
    grid = ClipRange(QParams.per_tensor(0.1, -128))
    x = torch.tensor([[1.0, 30.0, 40.0]])
    real = round_to_grid(x / grid.scale, grid.bounds) * grid.scale
    real.sum().backward()
    assert real[0].tolist() == pytest.approx([1.0, 25.5, 25.5])
    assert float(grid.log_clip.grad) == pytest.approx(51.0)


def test_a_frozen_range_no_longer_changes() -> None:
    learned, clip, average = LearnedRange(START, 100), ClipRange(START), MovingAverageRange(START, 0.9)
    for grid in (learned, clip, average):
        grid.freeze()
    assert not any(p.requires_grad for grid in (learned, clip) for p in grid.parameters())
    assert learned.bounds.shift is None and clip.bounds.stretch is None
    assert not average.observes


def test_pacts_clip_is_for_one_sided_tensors_only() -> None:
    made = [
        make_range("clip", START, size=4, one_sided=side, floored=False, momentum=0.9)
        for side in (True, False)
    ]
    assert [type(grid) for grid in made] == [ClipRange, MovingAverageRange]
    assert FixedRange(START).qparams == START
