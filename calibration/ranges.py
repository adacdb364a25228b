"""The algorithm that freezes scales: a range for every tensor by the recipe's choice, then floors."""

from torch import fx

from calibration.config import PtqConfig
from calibration.freeze import FlooredScale, freeze
from calibration.observed_ranges import observed_ranges
from calibration.progress import Progress, silent
from calibration.range_search import Found, search_ranges
from calibration.statistics import Need, Statistics

FLOORED, PREDICTED_KL = "floored_scales", "predicted_kl"


def needs(config: PtqConfig) -> frozenset[Need]:
    """Statistics the recipe's ranges are chosen from."""
    return frozenset({"channels", "fisher"} if searches(config) else {"channels"})


def searches(config: PtqConfig) -> bool:
    """Whether ranges are searched, not observed."""
    return config.level > 0 and config.activations.observer == "search"


def apply(
    graph: fx.GraphModule, statistics: Statistics, config: PtqConfig, progress: Progress = silent
) -> fx.GraphModule:
    """Freeze every site's scale; `graph.meta` says which were floored and the predicted KL per site."""
    found: dict[str, Found] = {}
    if searches(config):
        with progress("searching ranges", 1) as advance:
            found = search_ranges(graph, statistics)
            advance(1)
        ranges = {name: site.range for name, site in found.items()}
    else:
        ranges = observed_ranges(graph, statistics, statistics.observers if config.level else {})
    floored: tuple[FlooredScale, ...] = freeze(graph, ranges)
    graph.meta[FLOORED] = floored
    graph.meta[PREDICTED_KL] = {name: site.predicted_kl for name, site in found.items()}
    return graph
