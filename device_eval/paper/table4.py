"""Table 4 of the MobileNetV3 paper: quantized performance on Pixel phones, as printed."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Table4Row:
    """One row, 8 bits. `model` and `width` name the network; latencies at batch 1, one large core."""

    network: str
    model: Literal["large", "small", "v2"]
    width: float
    top1_percent: float
    pixel1_ms: float
    pixel2_ms: float
    pixel3_ms: float


TABLE4: tuple[Table4Row, ...] = (
    Table4Row("V3-Large 1.0", "large", 1.0, 73.8, 57, 55.9, 38.9),
    Table4Row("V2 1.0", "v2", 1.0, 70.9, 62, 53.6, 38.4),
    Table4Row("V3-Small", "small", 1.0, 64.9, 21, 20.5, 13.9),
    Table4Row("V2 0.35", "v2", 0.35, 57.2, 20.6, 18.6, 13.1),
)
