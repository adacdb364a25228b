"""The latencies that the paper published for networks we can build, each with the network's cost."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from device_eval.paper.table3 import TABLE3
from device_eval.paper.table4 import TABLE4
from device_eval.paper.table5 import TABLE5
from device_eval.paper.table9 import TABLE9
from device_eval.predictor.costs import Cost

Pixel = Literal[1, 2, 3]
Precision = Literal["float32", "int8"]
PIXELS: tuple[Pixel, ...] = (1, 2, 3)
NETWORKS = "networks.json"
"""Costs of `networks()`, counted on their graphs by `python -m benchmarks.pixel_predictor --networks`."""


@dataclass(frozen=True)
class Network:
    """A network of the paper, in the words of `ModelConfig`; `resolution` in pixels."""

    model: Literal["large", "small", "v2"]
    width: float = 1.0
    resolution: int = 224
    nonlinearity: str = "paper"

    def __str__(self) -> str:
        variant = "" if self.nonlinearity == "paper" else f" {self.nonlinearity}"
        return f"{self.model} {self.resolution}/{self.width:g}{variant}"


@dataclass(frozen=True)
class Published:
    """One latency on one large core at batch 1, from Table `table`."""

    table: int
    network: Network
    ms: float
    cost: Cost


def published(pixel: Pixel, precision: Precision) -> tuple[Published, ...]:
    """What predictions are fitted to: each network once, Table 9 before Table 3. Table 5 is never fitted."""
    found: dict[Network, tuple[int, float]] = {}
    for table, network, ms in _latencies(pixel, precision):
        found.setdefault(network, (table, ms))
    return tuple(Published(table, n, ms, network_costs()[n]) for n, (table, ms) in found.items())


def placements() -> tuple[Published, ...]:
    """Table 5, float on a Pixel 1: never fitted, but for V3 itself, which is Table 9's."""
    rows = [(Network("large", row.width, 224, row.nonlinearity), row.pixel1_ms) for row in TABLE5]
    return tuple(Published(5, network, ms, network_costs()[network]) for network, ms in rows)


def networks() -> tuple[Network, ...]:
    """Every network with a published latency, each once."""
    fitted = [network for precision in ("float32", "int8") for _, network, _ in _latencies(1, precision)]
    variants = [Network("large", row.width, 224, row.nonlinearity) for row in TABLE5]
    return tuple(dict.fromkeys((*fitted, *variants)))


@cache
def network_costs() -> dict[Network, Cost]:
    """Costs of `networks()`."""
    entries = json.loads(files(__package__).joinpath(NETWORKS).read_text(encoding="utf-8"))
    return {Network(**entry["network"]): Cost(**entry["cost"]) for entry in entries}


def _latencies(pixel: Pixel, precision: str) -> Iterator[tuple[int, Network, float]]:
    if precision == "int8":
        for row4 in TABLE4:
            yield (
                4,
                Network(row4.model, row4.width),
                (row4.pixel1_ms, row4.pixel2_ms, row4.pixel3_ms)[pixel - 1],
            )
        return
    if pixel == 1:
        for row9 in TABLE9:
            yield 9, Network(row9.model, row9.width, row9.resolution), row9.pixel1_ms
    for row3 in TABLE3:
        if row3.model is not None:
            yield (
                3,
                Network(row3.model, row3.width),
                (row3.pixel1_ms, row3.pixel2_ms, row3.pixel3_ms)[pixel - 1],
            )
