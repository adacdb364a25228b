"""Table 8 of the MobileNetV3 paper: semantic segmentation on the Cityscapes test set, as printed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table8Row:
    """One row. Float, on one large core of a Pixel 3; None where the paper prints a dash.

    `output_stride` is input resolution over the backbone's. Costs are of inputs of 1024x2048 (`full`) and
    512x1024 pixels (`half`). MAdds are text, to keep the digits the paper prints; `estimated` ones are the
    paper's estimates from other authors' figures.
    """

    network: str
    output_stride: int | None
    miou_percent: float
    madds_full_billions: str | None
    madds_half_billions: str
    pixel3_full_ms: float | None = None
    pixel3_half_ms: float | None = None
    estimated: bool = False


TABLE8: tuple[Table8Row, ...] = (
    Table8Row("V3", 16, 72.6, "9.74", "2.48", 2870, 730),
    Table8Row("V3", 32, 72.0, "7.74", "1.98", 2390, 607),
    Table8Row("V3-Small", 16, 69.4, "2.90", "0.74", 1380, 349),
    Table8Row("V3-Small", 32, 68.3, "2.06", "0.53", 1160, 290),
    Table8Row("ESPNetv2", None, 62.1, "13.46", "3.36", estimated=True),
    Table8Row("CCC2", None, 62.0, None, "3.15"),
    Table8Row("ESPNetv1", None, 60.3, "17.72", "4.43", estimated=True),
    Table8Row("ESPNetv2 small", None, 54.7, "2.26", "0.56", estimated=True),
)
