"""Table 5 of the MobileNetV3 paper: where V3-Large has h-swish, as printed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table5Row:
    """One row: V3-Large, float, at 224 pixels; latency on one large core of a Pixel 1.

    `nonlinearity` is the variant's name in `ModelConfig`; h-swish@N starts at the first layer of N channels.
    Changes are those printed beside the figures, against the first row; None where none is printed. Rounding
    explains why they are not always the differences (75.0 is printed as 0.3 below 75.2).
    """

    variant: str
    width: float
    nonlinearity: str
    top1_percent: float
    pixel1_ms: float
    top1_change_points: float | None = None
    pixel1_change_percent: float | None = None


TABLE5: tuple[Table5Row, ...] = (
    Table5Row("V3", 1.0, "paper", 75.2, 66),
    Table5Row("0.85 V3", 0.85, "paper", 74.3, 55),
    Table5Row("ReLU", 1.0, "relu", 74.5, 59, -0.7, -12),
    Table5Row("h-swish@16", 1.0, "hswish@16", 75.4, 78, 0.2, 20),
    Table5Row("h-swish@112", 1.0, "hswish@112", 75.0, 64, -0.3, -3),
)
