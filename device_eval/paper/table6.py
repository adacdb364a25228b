"""Table 6 of the MobileNetV3 paper: SSDLite on the COCO test set, as printed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table6Row:
    """One row. `halved`: channels between C4 and C5 are reduced by a factor of 2 (section 6.3).

    `map_percent` is COCO's mean average precision. `params_millions` and `madds_billions` are text, to keep
    the digits the paper prints.
    """

    backbone: str
    halved: bool
    map_percent: float
    latency_ms: float
    params_millions: str
    madds_billions: str


TABLE6: tuple[Table6Row, ...] = (
    Table6Row("V1", False, 22.2, 270, "5.1", "1.3"),
    Table6Row("V2", False, 22.1, 200, "4.3", "0.80"),
    Table6Row("Mnasnet", False, 23.0, 215, "4.88", "0.84"),
    Table6Row("V3", False, 22.0, 173, "4.97", "0.62"),
    Table6Row("V3", True, 22.0, 150, "3.22", "0.51"),
    Table6Row("V2 0.35", False, 13.7, 54.8, "0.93", "0.16"),
    Table6Row("V2 0.5", False, 16.6, 80.4, "1.54", "0.27"),
    Table6Row("Mnasnet 0.35", False, 15.6, 58.2, "1.02", "0.18"),
    Table6Row("Mnasnet 0.5", False, 18.5, 86.2, "1.68", "0.29"),
    Table6Row("V3-Small", False, 16.0, 67.2, "2.49", "0.21"),
    Table6Row("V3-Small", True, 16.1, 56, "1.77", "0.16"),
)
