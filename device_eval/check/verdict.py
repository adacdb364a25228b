"""Whether a measured interval is better than, like or worse than a published figure, or too wide to tell."""

import math
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["better", "as the paper", "worse", "not decidable"]


@dataclass(frozen=True)
class Judgement:
    """A verdict; `needed` is how many samples would decide where those at hand do not, None if unknown.

    `reason` says what is wrong with the samples, where more of them would not help.
    """

    verdict: Verdict
    needed: int | None = None
    reason: str | None = None


def judge(
    low: float, high: float, published: float, margin: float, *, more_is_better: bool, samples: int
) -> Judgement:
    """Compare the 95 % interval [low, high] of a figure with the `published` value.

    An interval on one side of it is better or worse; one that holds it, and nothing farther off than
    `margin`, is as the paper. Else it is not decidable: `needed` scales the `samples` so that, at the same
    estimate, the interval is narrow enough for either; its width goes with the root of their number.
    """
    if low > published or high < published:
        above = low > published
        return Judgement("better" if above is more_is_better else "worse")
    if low >= published - margin and high <= published + margin:
        return Judgement("as the paper")
    middle, half = (low + high) / 2, (high - low) / 2
    distance = abs(middle - published)
    # Narrow enough to leave the published value out, or to lie within the margin around it.
    enough = max(distance, margin - distance)
    return Judgement("not decidable", math.ceil(samples * (half / enough) ** 2))
