"""Table 9 of the MobileNetV3 paper: Large and Small over widths and resolutions, as printed."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Table9Row:
    """One row. `resolution` in pixels; latency on one large core of a Pixel 1, float.

    `madds_millions` and `params_millions` are text, to keep the digits the paper prints.
    """

    model: Literal["large", "small"]
    resolution: int
    width: float
    top1_percent: float
    madds_millions: str
    params_millions: str
    pixel1_ms: float


TABLE9: tuple[Table9Row, ...] = (
    Table9Row("large", 224, 1.25, 76.6, "356", "7.5", 104.0),
    Table9Row("large", 224, 1.0, 75.2, "217", "5.4", 66.0),
    Table9Row("large", 224, 0.75, 73.3, "155", "4.0", 50.0),
    Table9Row("large", 224, 0.5, 68.8, "69", "2.6", 28.7),
    Table9Row("large", 224, 0.35, 64.2, "40", "2.2", 20.4),
    Table9Row("large", 256, 1.0, 76.0, "282", "5.4", 87.0),
    Table9Row("large", 192, 1.0, 73.7, "160", "5.4", 49.0),
    Table9Row("large", 160, 1.0, 71.7, "112", "5.4", 36.0),
    Table9Row("large", 128, 1.0, 68.4, "73", "5.4", 24.2),
    Table9Row("large", 96, 1.0, 63.3, "43", "5.4", 15.9),
    Table9Row("small", 224, 1.25, 70.4, "91", "3.6", 32.0),
    Table9Row("small", 224, 1.0, 67.5, "66", "2.9", 21.3),
    Table9Row("small", 224, 0.75, 65.4, "44", "2.4", 18.0),
    Table9Row("small", 224, 0.5, 58.0, "23", "1.9", 10.7),
    Table9Row("small", 224, 0.35, 49.8, "13", "1.7", 8.2),
    Table9Row("small", 256, 1.0, 68.5, "74", "2.9", 27.8),
    Table9Row("small", 192, 1.0, 65.4, "42", "2.9", 16.3),
    Table9Row("small", 160, 1.0, 62.8, "30", "2.9", 12.0),
    Table9Row("small", 128, 1.0, 57.3, "20", "2.9", 8.3),
    Table9Row("small", 96, 1.0, 51.7, "12", "2.9", 5.8),
)
