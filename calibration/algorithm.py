"""The contract of every calibration algorithm: a module with these two functions."""

from typing import Protocol

from torch import fx

from calibration.config import PtqConfig
from calibration.progress import Progress
from calibration.statistics import Need, Statistics


class Algorithm(Protocol):
    """One step of post-training quantization: declare what it must know, then change the network.

    What the algorithms of a run need is collected in one pass over the images for all of them. `apply`
    changes `graph` in place and returns it; `statistics` follow the change by themselves. Reports go to
    `graph.meta` under the algorithm's own key.
    """

    def needs(self, config: PtqConfig) -> frozenset[Need]:
        """Statistics of the float network the algorithm wants."""

    def apply(
        self, graph: fx.GraphModule, statistics: Statistics, config: PtqConfig, progress: Progress
    ) -> fx.GraphModule:
        """Apply the algorithm."""
