"""All rules, in the order in which a report shows them within one severity."""

from device_eval.lint.finding import Rule
from device_eval.lint.rules.calibration import clipped_values, floored_scales, poor_calibration
from device_eval.lint.rules.contract import fixed_grids, pass_through, weight_zero_points, wrong_bias_scales
from device_eval.lint.rules.float_islands import float_islands, float_layers
from device_eval.lint.rules.hard_activations import extreme_ranges, hard_sigmoid_ranges, hard_swish_inputs
from device_eval.lint.rules.metadata import missing_metadata
from device_eval.lint.rules.partitions import partitions
from device_eval.lint.rules.requantization import requantization
from device_eval.lint.rules.saturation import (
    accumulator_overflow,
    constant_channels,
    few_levels,
    saturated_weights,
)
from device_eval.lint.rules.scales import coarse_weights, dead_scales, invalid_scales, unreachable_ranges
from device_eval.lint.rules.weights import per_tensor_weights

RULES: tuple[Rule, ...] = (
    invalid_scales,
    requantization,
    partitions,
    poor_calibration,
    dead_scales,
    floored_scales,
    clipped_values,
    extreme_ranges,
    hard_swish_inputs,
    hard_sigmoid_ranges,
    per_tensor_weights,
    float_islands,
    float_layers,
    coarse_weights,
    unreachable_ranges,
    fixed_grids,
    weight_zero_points,
    wrong_bias_scales,
    pass_through,
    accumulator_overflow,
    saturated_weights,
    constant_channels,
    few_levels,
    missing_metadata,
)
