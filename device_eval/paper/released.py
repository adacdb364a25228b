"""What Google published with its MobileNetV3 checkpoints: not the paper's figures, later software.

Source: README of tensorflow/models, research/slim/nets/mobilenet. The paper's Tables 3 and 4 have 66, 77 and
52.6 ms for V3-Large in float and 57, 55.9 and 38.9 ms in 8 bits.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ReleasedRow:
    """One checkpoint at width 1.0 and 224 pixels; latencies at batch 1 on one large core."""

    model: Literal["large", "small"]
    precision: Literal["float32", "int8"]
    top1_percent: float
    pixel1_ms: float
    pixel2_ms: float
    pixel3_ms: float


RELEASED: tuple[ReleasedRow, ...] = (
    ReleasedRow("large", "float32", 75.2, 51.2, 61, 44),
    ReleasedRow("large", "int8", 73.9, 44, 42.5, 32),
    ReleasedRow("small", "float32", 67.5, 15.8, 19.4, 14.4),
    ReleasedRow("small", "int8", 64.9, 15.5, 15, 10.7),
)
