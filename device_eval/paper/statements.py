"""Every change and ratio that the MobileNetV3 paper states in its text and captions, with the words.

Settings of search and training are left out, and so are words without a figure ("slightly faster").
Later versions of the paper put the efficient last stage at 7 ms (11 %) and the smaller stem at 2 ms.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Statement:
    """One figure. `change` is signed: what the thing named does to the quantity, on a Pixel 1 unless said.

    In "times" it is a factor. `words` stand in the paper. Latency shares are of the network without the
    change; in 6.4 latency is on a Pixel 3, and what the paper calls faster there are MAdds.
    """

    section: str
    thing: str
    quantity: Literal["latency", "MAdds", "top-1", "mAP", "mIOU", "filters", "channels", "activation memory"]
    change: float
    unit: Literal["ms", "%", "millions", "points", "count", "times"]
    words: str


STATEMENTS: tuple[Statement, ...] = (
    Statement(
        "abstract", "V3-Large against V2", "top-1", 3.2, "points", "MobileNetV3-Large is 3.2% more accurate"
    ),
    Statement("abstract", "V3-Large against V2", "latency", -15, "%", "reducing latency by 15% compared to"),
    Statement(
        "abstract", "V3-Small against V2", "top-1", 4.6, "points", "MobileNetV3-Small is 4.6% more accurate"
    ),
    Statement("abstract", "V3-Small against V2", "latency", -5, "%", "reducing latency by 5% compared to"),
    Statement(
        "abstract",
        "detection, V3-Large against V2",
        "latency",
        -25,
        "%",
        "MobileNetV3-Large detection is 25% faster at roughly the same accuracy as MobileNetV2",
    ),
    Statement(
        "abstract",
        "segmentation, V3-Large LR-ASPP against V2 R-ASPP",
        "latency",
        -30,
        "%",
        "MobileNetV3-Large LR-ASPP is 30% faster than MobileNetV2 R-ASPP at similar accuracy",
    ),
    Statement("5.1", "efficient last stage", "latency", -10, "ms", "reduces the latency by 10 milliseconds"),
    Statement("5.1", "efficient last stage", "latency", -15, "%", "which is 15% of the running time"),
    Statement("5.1", "efficient last stage", "MAdds", -30, "millions", "by 30 millions MAdds"),
    Statement(
        "5.1",
        "stem of 16 filters, not 32",
        "filters",
        -16,
        "count",
        "to 16 while maintaining the same accuracy",
    ),
    Statement("5.1", "stem of 16 filters, not 32", "latency", -3, "ms", "an additional 3 milliseconds"),
    Statement("5.1", "stem of 16 filters, not 32", "MAdds", -10, "millions", "and 10 million MAdds"),
    Statement(
        "5.2",
        "swish instead of h-swish, quantized",
        "latency",
        15,
        "%",
        "replacing h-swish with swish in quantized mode increased inference latency by 15%",
    ),
    Statement(
        "5.2",
        "a drop of the resolution",
        "activation memory",
        1 / 2,
        "times",
        "each layer activation memory typically halves every time the resolution drops",
    ),
    Statement(
        "5.2.1",
        "squeeze-and-excite of 1/4 of the expansion",
        "latency",
        0,
        "%",
        "no discernible latency cost",
    ),
    Statement(
        "6.2",
        "V3-Small against V3-Large of a multiplier that matches it",
        "top-1",
        3,
        "points",
        "outperforms the MobileNetV3-Large with multiplier scaled to match the performance by nearly 3%",
    ),
    Statement(
        "6.2.1", "h-swish everywhere, against V3", "top-1", 0.2, "points", "slight increase of accuracy (0.2)"
    ),
    Statement("6.2.1", "h-swish everywhere, against V3", "latency", 20, "%", "adding nearly 20% in latency"),
    Statement("6.2.1", "V3, against ReLU everywhere", "latency", 12, "%", "about 12% more expensive"),
    Statement(
        "6.3",
        "detection, half the channels between C4 and C5",
        "channels",
        1 / 2,
        "times",
        "reduce the channel counts of all feature layers between C4 and C5 by 2",
    ),
    Statement(
        "6.3",
        "detection, V3-Large with half the channels against V2",
        "latency",
        -25,
        "%",
        "With the channel reduction, MobileNetV3-Large is 25% faster than MobileNetV2",
    ),
    Statement(
        "6.3",
        "detection, V3-Small with half the channels against V2",
        "mAP",
        2.4,
        "points",
        "with channel reduction is also 2.4 and 0.5 mAP higher than MobileNetV2 and MnasNet",
    ),
    Statement(
        "6.3",
        "detection, V3-Small with half the channels against MnasNet",
        "mAP",
        0.5,
        "points",
        "with channel reduction is also 2.4 and 0.5 mAP higher than MobileNetV2 and MnasNet",
    ),
    Statement(
        "6.3",
        "detection, half the channels between C4 and C5",
        "latency",
        -15,
        "%",
        "the channel reduction trick contributes to approximately 15% latency reduction with no mAP loss",
    ),
    Statement(
        "Table 6",
        "detection, half the channels between C4 and C5",
        "channels",
        1 / 2,
        "times",
        "Channels in the blocks between C4 and C5 are reduced by a factor of 2",
    ),
    Statement(
        "6.4",
        "segmentation, half the channels in the last block",
        "channels",
        1 / 2,
        "times",
        "reduce the channels in the last block of network backbone by a factor of 2",
    ),
    Statement(
        "6.4",
        "segmentation, half the channels in the last block",
        "channels",
        1 / 2,
        "times",
        "reducing the channels in the last block of network backbone by a factor of 2 significantly improves",
    ),
    Statement(
        "Table 7",
        "segmentation, half the channels in the last block",
        "filters",
        1 / 2,
        "times",
        "Reduce the Filters in the last block by a factor of **2**",
    ),
    Statement(
        "6.4",
        "segmentation, a narrower head",
        "filters",
        -128,
        "count",
        "reducing the filters in the segmentation head from 256 to 128",
    ),
    Statement(
        "6.4",
        "segmentation, V3 against ESPNetv2",
        "mIOU",
        10.5,
        "points",
        "outperforms ESPNetv2 [32], CCC2 [34], and ESPNetv1 [32] by 10.5%, 10.6%, 12.3%, respectively",
    ),
    Statement(
        "6.4",
        "segmentation, V3 against CCC2",
        "mIOU",
        10.6,
        "points",
        "outperforms ESPNetv2 [32], CCC2 [34], and ESPNetv1 [32] by 10.5%, 10.6%, 12.3%, respectively",
    ),
    Statement(
        "6.4",
        "segmentation, V3 against ESPNetv1",
        "mIOU",
        12.3,
        "points",
        "outperforms ESPNetv2 [32], CCC2 [34], and ESPNetv1 [32] by 10.5%, 10.6%, 12.3%, respectively",
    ),
    Statement(
        "6.4",
        "segmentation, no atrous convolution",
        "mIOU",
        -0.6,
        "points",
        "The performance drops slightly by 0.6% when not employing the atrous convolution",
    ),
    Statement(
        "6.4",
        "segmentation, V3 without atrous convolution against ESPNetv2",
        "MAdds",
        1 / 1.7,
        "times",
        "1.7, 1.59, and 2.24 times faster than ESPNetv2, CCC2, and ESPNetv1, respectively",
    ),
    Statement(
        "6.4",
        "segmentation, V3 without atrous convolution against CCC2",
        "MAdds",
        1 / 1.59,
        "times",
        "1.7, 1.59, and 2.24 times faster than ESPNetv2, CCC2, and ESPNetv1, respectively",
    ),
    Statement(
        "6.4",
        "segmentation, V3 without atrous convolution against ESPNetv1",
        "MAdds",
        1 / 2.24,
        "times",
        "1.7, 1.59, and 2.24 times faster than ESPNetv2, CCC2, and ESPNetv1, respectively",
    ),
    Statement(
        "6.4",
        "segmentation, V3-Small against all of them",
        "mIOU",
        6.2,
        "points",
        "still outperforms all of them by at least a healthy margin of 6.2%",
    ),
    Statement(
        "6.4",
        "segmentation, fastest V3-Small against ESPNetv2-small",
        "mIOU",
        13.6,
        "points",
        "Our fastest model variant is 13.6% better than ESPNetv2-small",
    ),
)
