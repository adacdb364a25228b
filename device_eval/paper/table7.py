"""Table 7 of the MobileNetV3 paper: semantic segmentation on the Cityscapes validation set, as printed."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Table7Row:
    """One row; `number` is the paper's. Float, on one large core of a Pixel 3.

    `halved`: filters of the backbone's last block are reduced by a factor of 2. `filters` are the head's.
    Costs are of inputs of 1024x2048 (`full`) and 512x1024 pixels (`half`). `params_millions` and
    `madds_billions` are text, to keep the digits the paper prints.
    """

    number: int
    backbone: str
    halved: bool
    head: Literal["R-ASPP", "LR-ASPP"]
    filters: int
    miou_percent: float
    params_millions: str
    madds_billions: str
    pixel3_full_ms: float
    pixel3_half_ms: float


TABLE7: tuple[Table7Row, ...] = (
    Table7Row(1, "V2", False, "R-ASPP", 256, 72.84, "2.11", "21.29", 4200, 1070),
    Table7Row(2, "V2", True, "R-ASPP", 256, 72.56, "1.15", "13.68", 3230, 819),
    Table7Row(3, "V2", True, "LR-ASPP", 256, 72.97, "1.02", "12.83", 3160, 808),
    Table7Row(4, "V2", True, "LR-ASPP", 128, 72.74, "0.98", "12.57", 3120, 797),
    Table7Row(5, "V3", False, "R-ASPP", 256, 72.64, "3.60", "18.43", 4170, 1070),
    Table7Row(6, "V3", True, "R-ASPP", 256, 71.91, "1.76", "11.24", 3010, 765),
    Table7Row(7, "V3", True, "LR-ASPP", 256, 72.37, "1.63", "10.33", 2960, 750),
    Table7Row(8, "V3", True, "LR-ASPP", 128, 72.36, "1.51", "9.74", 2870, 730),
    Table7Row(9, "V2 0.5", True, "LR-ASPP", 128, 68.57, "0.28", "4.00", 1610, 402),
    Table7Row(10, "V2 0.35", True, "LR-ASPP", 128, 66.83, "0.16", "2.54", 1310, 323),
    Table7Row(11, "V3-Small", True, "LR-ASPP", 128, 68.38, "0.47", "2.90", 1380, 349),
)
