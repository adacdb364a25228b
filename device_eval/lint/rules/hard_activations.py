"""h-swish and hard-sigmoid: ranges that theory fixes but a converter observed."""

from collections.abc import Iterator

from device_eval.lint.description import Model, Tensor, short
from device_eval.lint.finding import Finding
from device_eval.lint.patterns import HardSwishSite, gates, hard_swish_sites

Range = tuple[float, float]

WASTED = 0.05
"""Share of levels below -3 from which a range counts as reaching well below it."""

MANY_WASTED = 0.25
MIN_SITES = 3
"""So many coincidences are none."""

CLIPPED = 0.02
"""Share of [0, top] that a gate may miss before it is a warning."""


def hard_swish_inputs(model: Model) -> Iterator[Finding]:
    """h-swish inputs whose range reaches well below where h-swish is 0 (and that nothing else reads)."""
    for site in hard_swish_sites(model):
        readers = {op.index for op in model.consumers(site.x.name)}
        low, high = site.x.span
        wasted = min((site.zero_below - low) / (high - low), 1.0)
        if (
            site.x.is_16_bit
            or wasted < WASTED
            or not readers <= set(site.readers)
            or site.x.name in model.outputs
        ):
            continue
        yield _wasted(model, site, wasted)


def _wasted(model: Model, site: HardSwishSite, wasted: float) -> Finding:
    (low, high), zero_below = site.x.span, site.zero_below
    producer = model.producer(site.x.name)
    curve = f"{zero_below:.3g} .. {zero_below + site.ramp:.3g}"
    finer = (high - low) / (high - zero_below) if high > zero_below else float("inf")
    return Finding(
        "h-swish-range",
        "warning" if wasted >= MANY_WASTED else "note",
        "accuracy",
        model.where(producer or site.op),
        f"h-swish input covers {low:.4g} .. {high:.4g} in steps of {site.x.scale:.3g}: {wasted:.0%} of its "
        f"levels lie below {zero_below:.3g}, where h-swish is 0; {site.ramp / site.x.scale:.3g} steps are "
        f"left for its curve ({curve}), {finer:.3g} times as many if floored",
        "all levels below -3 mean the same 0, and the rest of the range is rounded that much coarser",
        "end the range at -3 (`qmnv3 ptq` does)",
        wasted,
    )


def extreme_ranges(model: Model) -> Iterator[Finding]:
    """h-swish outputs that all end exactly where their inputs do: ranges are plain extremes.

    h-swish(x) = x from 3 on, so the largest input seen is the largest output seen; ranges chosen by an
    error end differently, since both tensors have different steps and distributions.
    """
    ends = [pair for site in hard_swish_sites(model) if (pair := _upper_ends(model, site)) is not None]
    alike = [inner[1] for inner, outer in ends if inner[0] <= outer[1] and outer[0] <= inner[1]]
    if len(ends) < MIN_SITES or len(alike) < len(ends):
        return
    yield Finding(
        "extreme-ranges",
        "warning",
        "accuracy",
        model.path.name,
        f"at all {len(ends)} h-swish the output's range ends where the input's does (at {alike[0]:.3g}, "
        f"{alike[1]:.3g}, {alike[2]:.3g}, ...): ranges are the extremes seen in calibration, or percentiles",
        "an outlier coarsens every step of its tensor, and what the calibration images did not reach is cut "
        "off: logits above the end of their range all tie",
        "choose ranges by the error they cause (`qmnv3 ptq` does), on 100 or more images like those to come",
    )


def _upper_ends(model: Model, site: HardSwishSite) -> tuple[Range, Range] | None:
    """Between what the upper ends of input and output were chosen, in units of the input."""
    output = model.output(site.op)
    high = site.x.span[1]
    if output is None or not output.quantized or high <= site.zero_below + site.ramp:
        return None
    # x * gate is declared as many times larger as the gate is.
    scaled = (output.span[1] / declared for declared in (1.0, site.gate_top or 1.0))
    end = min(scaled, key=lambda value: abs(value - high))
    rounding = max(site.x.scale, output.scale) / 2.0
    return (
        (high / _widened(site.x) - rounding, high + rounding),
        (end / _widened(output) - rounding, end + rounding),
    )


def _widened(tensor: Tensor) -> float:
    """How many times wider than chosen a grid may be, where its zero point was rounded among few levels."""
    below = tensor.zero_point - tensor.limits[0]
    return (below + 0.5) / below if below > 0 else 1.0


def hard_sigmoid_ranges(model: Model) -> Iterator[Finding]:
    """Gates whose grid is not exactly the [0, 1] or [0, 6] that hard-sigmoid has."""
    for gate in gates(model):
        if gate.tensor.is_16_bit:
            continue
        low, high = gate.tensor.span
        step = gate.tensor.scale
        # One step is free: a grid of 256 steps ends just below the top.
        missed = max(gate.top - high - 1.01 * step, 0.0) / gate.top
        excess = max(high - gate.top - step, -low - step, 0.0) / gate.top
        if not missed and not excess:
            continue
        clipped = (
            f"everything above {high:.3g} is cut off" if missed else f"{excess:.0%} of it can never occur"
        )
        yield Finding(
            "hard-sigmoid-range",
            "warning" if max(missed, excess) >= CLIPPED else "note",
            "accuracy",
            model.where(gate.op),
            f"{short(gate.tensor.name)} covers {low:.3g} .. {high:.4g}, not 0 .. {gate.top:g}: {clipped}",
            "the range was observed, not fixed: an image whose gate lies beyond it is gated wrongly",
            "fix the grid: scale 1/256 at the smallest integer for [0, 1], 6/255 for [0, 6]",
            missed + excess,
        )
