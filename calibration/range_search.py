"""Activation ranges by the error they cause at the network's output, not at the tensor itself.

The Fisher information says how much the prediction moves (in KL divergence) per unit of squared error in each
channel; a range is the one whose rounding and clipping errors, so weighted, move it least. h-swish's input and
output are searched together, with the error taken behind h-swish: that is where an error below -3 vanishes.
The logits' range takes the KL divergence itself. Compare Yuan et al. 2022 (PTQ4ViT, Hessian-guided metric).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx

from calibration.observers import HARD_SWISH_FLOOR, Channels
from calibration.statistics import Need, Statistics
from qmnv3.ir import QParams
from qmnv3.quant.affine import HARD_SWISH_GATE_QPARAMS, asymmetric_qparams, fake_quantize
from qmnv3.quant.sites import Site, output_site, read_sites

NEEDS: frozenset[Need] = frozenset({"channels", "fisher"})
Range = tuple[float, float]
ErrorOf = Callable[[QParams], float]
# Candidate ends as shares of the observed ones; below a tenth clipping dominates for any real tensor.
_SHARES = np.geomspace(0.1, 1.0, 20)[:-1]
_EVALUATED_VALUES = 2**16


@dataclass(frozen=True)
class Found:
    """A site's range and the KL divergence its quantization alone is predicted to cause."""

    range: Range
    predicted_kl: float


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
            found |= search_hard_swish(site, reader, statistics)
        else:
            found[site.name] = search_tensor(statistics.channels(site), statistics.fisher(site))
    return found


def only_hard_swish_reader(site: Site, sites: Sequence[Site]) -> Site | None:
    """The h-swish that alone reads `site`, so that values below -3 need no representation."""
    readers = [reader for reader in sites if site.name in reader.inputs]
    return readers[0] if len(readers) == 1 and readers[0].kind == "hard_swish" else None


def search_tensor(channels: Channels, fisher: torch.Tensor) -> Found:
    """Range of a tensor whose error in channel c costs `fisher[c]` / 2 per unit of its square."""
    rows = _evaluated(channels)

    def error(qparams: QParams) -> float:
        squared = (fake_quantize(rows, qparams) - rows).square().mean(0)
        return float(squared @ fisher) / 2.0

    return _descend(error, _observed(channels))


def search_hard_swish(site: Site, reader: Site, statistics: Statistics) -> dict[str, Found]:
    """Ranges of h-swish's input `site` and output `reader`, chosen in turns for the error at the output."""
    channels, fisher = statistics.channels(site), statistics.fisher(reader)
    assert reader.hard_swish is not None
    factors = reader.hard_swish.factors
    factors = torch.ones_like(channels.low) if factors is None else factors
    rows = _evaluated(channels)
    exact = hard_swish(rows, factors)
    floors = torch.maximum(channels.low, HARD_SWISH_FLOOR * factors)
    input_range = (min(float(floors.min()), 0.0), max(float(channels.high.max()), 0.0))
    output_range = _observed(statistics.channels(reader))

    def input_error(qparams: QParams) -> float:
        computed = hard_swish(fake_quantize(rows, qparams), factors, rounded=True)
        return float((computed - exact).square().mean(0) @ fisher) / 2.0

    found_input = _descend(input_error, input_range)
    computed = hard_swish(fake_quantize(rows, asymmetric_qparams(*found_input.range)), factors, rounded=True)

    def output_error(qparams: QParams) -> float:
        return float((fake_quantize(computed, qparams) - exact).square().mean(0) @ fisher) / 2.0

    found_output = _descend(output_error, output_range)
    added = max(found_output.predicted_kl - found_input.predicted_kl, 0.0)
    return {site.name: found_input, reader.name: Found(found_output.range, added)}


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

    return _descend(error, _observed(channels))


def _observed(channels: Channels) -> Range:
    return min(float(channels.low.min()), 0.0), max(float(channels.high.max()), 0.0)


def _evaluated(channels: Channels) -> torch.Tensor:
    """As many of the sampled rows as an evaluation needs."""
    return channels.rows[: max(_EVALUATED_VALUES // channels.rows.shape[1], 64)]


def _descend(error: ErrorOf, observed: Range) -> Found:
    """Least `error` over both ends, one after the other, until neither moves."""
    best, least = observed, error(asymmetric_qparams(*observed))
    for _ in range(4):
        before = best
        for end in (1, 0):
            for share in _SHARES if observed[end] else ():
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
