"""What was published of each network in float and in 8 bits, side by side."""

from dataclasses import dataclass
from typing import Literal, get_args

from device_eval.paper.released import RELEASED, ReleasedRow
from device_eval.paper.table3 import TABLE3, Table3Row
from device_eval.paper.table4 import TABLE4, Table4Row

Network = Literal["large", "small", "v2", "v2-0.35"]
NETWORKS: tuple[Network, ...] = get_args(Network)
PHONES = ("Pixel 1", "Pixel 2", "Pixel 3")


@dataclass(frozen=True)
class Published:
    """Top-1 in percent on ImageNet's validation images, and milliseconds on `PHONES`: (float, 8 bits)."""

    source: str
    top1_percent: tuple[float, float]
    latency_ms: tuple[tuple[float, float], ...]

    @property
    def change_points(self) -> float:
        """8 bits minus float."""
        return self.top1_percent[1] - self.top1_percent[0]


def published(network: Network) -> tuple[Published, ...]:
    """The paper's Tables 3 and 4, and Google's release where it has the network."""
    key = parts(network)
    (parent,) = [row for row in TABLE3 if (row.model, row.width) == key]
    (quantized,) = [row for row in TABLE4 if (row.model, row.width) == key]
    found = [_side_by_side("paper, Tables 3 and 4", parent, quantized)]
    released = {row.precision: row for row in RELEASED if (row.model, 1.0) == key}
    if released:
        found.append(_side_by_side("Google's release", released["float32"], released["int8"]))
    return tuple(found)


def parts(network: Network) -> tuple[Literal["large", "small", "v2"], float]:
    """Model and width."""
    match network:
        case "v2-0.35":
            return "v2", 0.35
        case _:
            return network, 1.0


def _side_by_side(
    source: str, parent: Table3Row | ReleasedRow, quantized: Table4Row | ReleasedRow
) -> Published:
    pairs = (
        (parent.pixel1_ms, quantized.pixel1_ms),
        (parent.pixel2_ms, quantized.pixel2_ms),
        (parent.pixel3_ms, quantized.pixel3_ms),
    )
    return Published(source, (parent.top1_percent, quantized.top1_percent), pairs)
