"""The contract of every calibration algorithm."""

from typing import Protocol

from torch import fx

from calibration.config import PtqConfig
from calibration.statistics import Need, Statistics


class Algorithm(Protocol):
    """One step of post-training quantization: declare what it must know, then change the network.

    `needs` are collected in one pass over the images for all algorithms of a run. `apply` changes `graph` in
    place and returns it; `statistics` follow the change by themselves.
    """

    needs: frozenset[Need]

    def apply(self, graph: fx.GraphModule, statistics: Statistics, config: PtqConfig) -> fx.GraphModule:
        """Apply the algorithm."""
