"""What the MobileNetV3 paper published for one network of an ablation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from device_eval.paper.statements import STATEMENTS, Statement
from device_eval.paper.table4 import TABLE4
from device_eval.paper.table5 import TABLE5
from device_eval.paper.table9 import TABLE9

THINGS = tuple(dict.fromkeys(statement.thing for statement in STATEMENTS))
FULL_RESOLUTION = 224


@dataclass(frozen=True)
class Published:
    """Accuracy on ImageNet, latency on one large core of a Pixel 1."""

    top1_percent: float
    pixel1_ms: float


def published(
    model: str, options: Mapping[str, Any], width: float, resolution: int, precision: str
) -> Published | None:
    """Tables 4 and 9 for the paper's networks, Table 5 for other nonlinearities; None for what is in neither.

    `precision` is "float32" or "int8".
    """
    if set(options) - {"nonlinearity"}:
        return None
    nonlinearity = options.get("nonlinearity", "paper")
    full, papers_own = resolution == FULL_RESOLUTION, nonlinearity == "paper"
    if precision == "int8":
        found = [row for row in TABLE4 if full and papers_own and (row.model, row.width) == (model, width)]
        return Published(found[0].top1_percent, found[0].pixel1_ms) if found else None
    for row in TABLE9:
        if papers_own and (row.model, row.width, row.resolution) == (model, width, resolution):
            return Published(row.top1_percent, row.pixel1_ms)
    for other in TABLE5:
        if full and model == "large" and (other.nonlinearity, other.width) == (nonlinearity, width):
            return Published(other.top1_percent, other.pixel1_ms)
    return None


def statements(thing: str) -> tuple[Statement, ...]:
    """What the paper says in words about `thing`."""
    return tuple(statement for statement in STATEMENTS if statement.thing == thing)
