"""Table 3 of the MobileNetV3 paper: floating-point performance on Pixel phones, as printed."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Table3Row:
    """One row. `model` and `width` name the network where qmnv3 builds it; latencies at batch 1, one core.

    `madds_millions` and `params_millions` are text, to keep the digits the paper prints.
    """

    network: str
    model: Literal["large", "small", "v2"] | None
    width: float
    top1_percent: float
    madds_millions: str
    params_millions: str
    pixel1_ms: float
    pixel2_ms: float
    pixel3_ms: float


TABLE3: tuple[Table3Row, ...] = (
    Table3Row("V3-Large 1.0", "large", 1.0, 75.2, "219", "5.4", 66, 77, 52.6),
    Table3Row("V3-Large 0.75", "large", 0.75, 73.3, "155", "4", 50, 61, 40.1),
    Table3Row("Mnasnet-A1", None, 1.0, 75.2, "315", "3.9", 84, 93, 64),
    Table3Row("Proxyless", None, 1.0, 74.6, "320", "4", 88, 98, 65),
    Table3Row("V2 1.0", "v2", 1.0, 72.0, "300", "3.4", 78, 90, 61.3),
    Table3Row("V3-Small 1.0", "small", 1.0, 67.4, "66", "2.9", 21.3, 26, 17.7),
    Table3Row("V3-Small 0.75", "small", 0.75, 65.4, "44", "2.4", 18, 21.06, 15.1),
    Table3Row("Mnasnet", None, 0.35, 64.9, "65.1", "1.9", 24.9, 28.1, 18.3),
    Table3Row("V2 0.35", "v2", 0.35, 60.8, "59.2", "1.6", 19, 22, 14.5),
)
