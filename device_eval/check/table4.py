"""Table 4 row by row: what 8 bits cost in accuracy, and what they save in time."""

from collections.abc import Sequence
from dataclasses import dataclass

from device_eval.check.published import PHONES, Published
from device_eval.check.verdict import Judgement, judge
from device_eval.latency import Latency
from device_eval.latency.steadiness import MIN_SAMPLES
from device_eval.statistics import PairedDifference, median_ratio

# A point is a third of what Table 4 loses with V3-Small; its own figures are rounded to a tenth.
MARGIN_POINTS = 0.5
MARGIN_RATIO = 0.05


@dataclass(frozen=True)
class Row:
    """One comparison: `published` beside `estimate` with its 95 % interval [low, high], all in `unit`."""

    quantity: str
    unit: str
    source: str
    published: float
    estimate: float
    low: float
    high: float
    judgement: Judgement
    samples: int


def accuracy_rows(
    difference: PairedDifference, images: int, published: Sequence[Published]
) -> tuple[Row, ...]:
    """Change of top-1 from float to 8 bits on the same images, in points."""
    low, high = 100 * difference.low, 100 * difference.high
    return tuple(
        Row(
            "top-1, 8 bits - float",
            "points",
            each.source,
            each.change_points,
            100 * difference.estimate,
            low,
            high,
            judge(low, high, each.change_points, MARGIN_POINTS, more_is_better=True, samples=images),
            images,
        )
        for each in published
    )


def latency_rows(quantized: Latency, parent: Latency, published: Sequence[Published]) -> tuple[Row, ...]:
    """Ratio of median latencies, 8 bits to float, beside that of each phone; noisy ones decide nothing.

    Fewer samples than show noise do not either. `samples` and `needed` count runs.
    """
    ratio, low, high = median_ratio(quantized.samples_us, parent.samples_us)
    samples = len(quantized.samples_us) * quantized.runs_per_sample
    rows = []
    for each in published:
        for phone, (float_ms, int8_ms) in zip(PHONES, each.latency_ms, strict=True):
            stated = int8_ms / float_ms
            verdict = judge(low, high, stated, MARGIN_RATIO, more_is_better=False, samples=samples)
            verdict = _trusted(verdict, (quantized, parent))
            source = f"{each.source}, {phone}"
            rows.append(
                Row("latency, 8 bits / float", "times", source, stated, ratio, low, high, verdict, samples)
            )
    return tuple(rows)


def _trusted(judgement: Judgement, latencies: Sequence[Latency]) -> Judgement:
    noisy = [latency.verdict for latency in latencies if latency.verdict.startswith("noisy")]
    if noisy:
        return Judgement("not decidable", None, noisy[0])
    if all(latency.verdict == "steady" for latency in latencies):
        return judgement
    least = MIN_SAMPLES * latencies[0].runs_per_sample
    return Judgement("not decidable", max(least, judgement.needed or 0))
