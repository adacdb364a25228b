"""Activation ranges by the error they cause at the network's output, not at the tensor itself.

The Fisher information says how much the prediction moves (in KL divergence) per unit of squared error in
each channel; a range is the one whose rounding and clipping errors, so weighted, move it least. h-swish's
input and output are searched together, with the error taken behind h-swish: that is where an error below -3
vanishes. So are swish's. The logits' range takes the KL divergence itself. Compare Yuan et al. 2022
(PTQ4ViT), who weight by gradients too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from calibration.observers import HARD_SWISH_FLOOR, Channels
from calibration.statistics import Statistics
from qmnv3.ir import QParams
from qmnv3.quant.affine import (
    HARD_SWISH_GATE_QPARAMS,
    SIGMOID_QPARAMS,
    asymmetric_qparams,
    fake_quantize,
)
from qmnv3.quant.sites import Site, output_site, read_sites

Range = tuple[float, float]
ErrorOf = Callable[[QParams], float]
# Where swish's sigmoid falls below half a step of its grid, and swish is 0 in integers.
SWISH_FLOOR = -6.25


@dataclass(frozen=True)
class Effort:
    """How finely a search looks: candidate ends as shares of the observed ones, rounds, and how many values.

    At least `rows` positions are evaluated, however many channels there are: rare large values count.

    Below a tenth of the observed range clipping dominates for any real tensor.
    """

    shares: tuple[float, ...]
    rounds: int
    values: int
    rows: int


FINE = Effort(tuple(np.geomspace(0.1, 1.0, 20)[:-1].tolist()), 4, 2**16, 512)
COARSE = Effort(tuple(np.geomspace(0.25, 1.0, 7)[:-1].tolist()), 1, 2**14, 64)


@dataclass(frozen=True)
class Found:
    """A site's range and the KL divergence its quantization alone is predicted to cause."""

    range: Range
    predicted_kl: float

    @property
    def qparams(self) -> QParams:
        """The grid of the range."""
        return asymmetric_qparams(*self.range)


def search_ranges(prepared: fx.GraphModule, statistics: Statistics) -> dict[str, Found]:
    """The best range of every site that has no fixed grid, by name."""
    sites = read_sites(prepared)
    output = output_site(prepared)
    found: dict[str, Found] = {}
    for site in sites:
        if site.fake_quant.fixed or site.name in found:
            continue
        reader = only_hard_swish_reader(site, sites)
        if site.name == output:
            found[site.name] = _search_logits(statistics.channels(site))
        elif reader is not None:
            found[site.name], found[reader.name] = search_hard_swish(
                statistics.channels(site),
                statistics.channels(reader),
                statistics.fisher(reader),
                tensor_factors(site),
                tensor_factors(reader),
                gate_factors(reader),
            )
        elif (swish := only_swish_reader(site, sites)) is not None:
            found[site.name], found[swish.name] = search_swish(
                statistics.channels(site), statistics.channels(swish), statistics.fisher(swish)
            )
        else:
            found[site.name] = search_tensor(statistics.channels(site), statistics.fisher(site))
    return found


def only_hard_swish_reader(site: Site, sites: Sequence[Site]) -> Site | None:
    """The h-swish that alone reads `site`, so that values below -3 need no representation."""
    readers = [reader for reader in sites if site.name in reader.inputs]
    return readers[0] if len(readers) == 1 and readers[0].kind == "hard_swish" else None


def only_swish_reader(site: Site, sites: Sequence[Site]) -> Site | None:
    """The product of `site` and its sigmoid, where nothing else reads `site`."""
    readers = [reader for reader in sites if site.name in reader.inputs]
    if [reader.kind for reader in readers] != ["logistic", "mul"]:
        return None
    sigmoid, product = readers
    return product if set(product.inputs) == {site.name, sigmoid.name} else None


def tensor_factors(site: Site) -> torch.Tensor:
    """How many times larger than in the float network each channel of a tensor is [C]."""
    known = site.fake_quant.factors
    return torch.ones(site.output_shape[1]) if known is None else known


def gate_factors(hard_swish_site: Site) -> torch.Tensor:
    """What the gate of an h-swish divides by [C]: 1 unless it is equalized."""
    assert hard_swish_site.hard_swish is not None
    known = hard_swish_site.hard_swish.factors
    return torch.ones(hard_swish_site.output_shape[1]) if known is None else known


def useful_floor(site: Site, sites: Sequence[Site]) -> torch.Tensor | None:
    """Below this [C] all values are alike to the h-swish or swish that alone reads `site`: 0."""
    reader = only_hard_swish_reader(site, sites)
    if reader is not None:
        return HARD_SWISH_FLOOR * gate_factors(reader)
    swish = only_swish_reader(site, sites)
    return None if swish is None else torch.full((site.output_shape[1],), SWISH_FLOOR)


def useful_rows(site: Site, sites: Sequence[Site], statistics: Statistics) -> torch.Tensor:
    """Sampled values [n, C] of a site; everything below its `useful_floor` is as good as that."""
    rows, floor = statistics.channels(site).rows, useful_floor(site, sites)
    return rows if floor is None else torch.maximum(rows, floor)


def search_tensor(channels: Channels, fisher: torch.Tensor, effort: Effort = FINE) -> Found:
    """Range of a tensor whose error in channel c costs `fisher[c]` / 2 per unit of its square."""
    rows = _evaluated(channels, effort)

    def error(qparams: QParams) -> float:
        squared = (fake_quantize(rows, qparams) - rows).square().mean(0)
        return float(squared @ fisher) / 2.0

    return _descend(error, _observed(channels), effort)


def search_hard_swish(
    channels: Channels,
    output: Channels,
    fisher: torch.Tensor,
    inputs: torch.Tensor,
    outputs: torch.Tensor,
    gates: torch.Tensor,
    effort: Effort = FINE,
) -> tuple[Found, Found]:
    """Ranges of an h-swish's input (`channels`) and `output`, both by the error at the output.

    `fisher` [C] is the output's. The tensors are `inputs` and `outputs` [C] times their true values; the gate
    divides by `gates` [C]. Where these are not all equal, the error is more than rounding. The output's range
    is searched on what the quantized input and gate give; its predicted KL is what it adds.
    """
    rows = _evaluated(channels, effort)
    exact = outputs / inputs * hard_swish(rows, inputs)
    floors = torch.maximum(channels.low, HARD_SWISH_FLOOR * gates)
    input_range = (min(float(floors.min()), 0.0), max(float(channels.high.max()), 0.0))

    def computed(x: QParams) -> torch.Tensor:
        return hard_swish(fake_quantize(rows, x), gates, rounded=True)

    return _search_pair(computed, exact, fisher, (input_range, _observed(output)), effort)


def search_swish(channels: Channels, output: Channels, fisher: torch.Tensor) -> tuple[Found, Found]:
    """Ranges of a swish's input (`channels`) and `output`, both by the error at the output."""
    rows = _evaluated(channels, FINE)
    low, high = _observed(channels)

    def computed(x: QParams) -> torch.Tensor:
        read = fake_quantize(rows, x)
        return read * fake_quantize(torch.sigmoid(read), SIGMOID_QPARAMS)

    ranges = (max(low, SWISH_FLOOR), high), _observed(output)
    return _search_pair(computed, torch.nn.functional.silu(rows), fisher, ranges, FINE)


def _search_pair(
    computed: Callable[[QParams], torch.Tensor],
    exact: torch.Tensor,
    fisher: torch.Tensor,
    observed: tuple[Range, Range],
    effort: Effort,
) -> tuple[Found, Found]:
    """Ranges of an activation's input and output; `computed` is the output [n, C] for the input's grid."""

    def error(values: torch.Tensor) -> float:
        return float((values - exact).square().mean(0) @ fisher) / 2.0

    found_input = _descend(lambda x: error(computed(x)), observed[0], effort)
    unrounded = computed(found_input.qparams)
    found_output = _descend(lambda y: error(fake_quantize(unrounded, y)), observed[1], effort)
    added = max(found_output.predicted_kl - found_input.predicted_kl, 0.0)
    return found_input, Found(found_output.range, added)


def hard_swish(x: torch.Tensor, factors: torch.Tensor, rounded: bool = False) -> torch.Tensor:
    """Equalized h-swish of rows [n, C], its gate on the fixed grid 6/255 if `rounded` (section 5.2)."""
    gate = torch.nn.functional.relu6(x / factors + 3.0)
    return x * (fake_quantize(gate, HARD_SWISH_GATE_QPARAMS) if rounded else gate) / 6.0


def _search_logits(channels: Channels) -> Found:
    rows = channels.rows
    target = rows.log_softmax(1)

    def error(qparams: QParams) -> float:
        quantized = fake_quantize(rows, qparams).log_softmax(1)
        return float((target.exp() * (target - quantized)).sum(1).mean())

    return _descend(error, _observed(channels), FINE)


def _observed(channels: Channels) -> Range:
    return min(float(channels.low.min()), 0.0), max(float(channels.high.max()), 0.0)


def _evaluated(channels: Channels, effort: Effort) -> torch.Tensor:
    """As many of the sampled rows as an evaluation needs."""
    return channels.rows[: max(effort.values // channels.rows.shape[1], effort.rows)]


def _descend(error: ErrorOf, observed: Range, effort: Effort) -> Found:
    """Least `error` over both ends, one after the other, until neither moves."""
    best, least = observed, error(asymmetric_qparams(*observed))
    for _ in range(effort.rounds):
        before = best
        for end in (1, 0):
            for share in effort.shares if observed[end] else ():
                candidate = (best[0], observed[1] * share) if end else (observed[0] * share, best[1])
                value = error(asymmetric_qparams(*candidate))
                if value < least:
                    best, least = candidate, value
        if best == before:
            break
    return Found(best, least)


def predicted_kl(found: Mapping[str, Found]) -> float:
    """KL divergence that all these sites together are predicted to cause."""
    return sum(site.predicted_kl for site in found.values())
