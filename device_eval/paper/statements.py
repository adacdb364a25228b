"""What the MobileNetV3 paper says in words about speed and accuracy, with the words.

Later versions of the paper put the efficient last stage at 7 ms (11 %) and the smaller stem at 2 ms.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Statement:
    """One figure. `change` is signed: what the thing named does to the quantity, on a Pixel 1 unless said.

    `words` stand in the paper. Latency shares are of the network without the change.
    """

    section: str
    thing: str
    quantity: Literal["latency", "MAdds", "top-1", "filters"]
    change: float
    unit: Literal["ms", "%", "millions", "points", "count"]
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
        "5.2.1",
        "squeeze-and-excite of 1/4 of the expansion",
        "latency",
        0,
        "%",
        "no discernible latency cost",
    ),
    Statement(
        "6.2.1", "h-swish everywhere, against V3", "top-1", 0.2, "points", "slight increase of accuracy (0.2)"
    ),
    Statement("6.2.1", "h-swish everywhere, against V3", "latency", 20, "%", "adding nearly 20% in latency"),
    Statement("6.2.1", "V3, against ReLU everywhere", "latency", 12, "%", "about 12% more expensive"),
)
