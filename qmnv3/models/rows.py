"""The architectures as data: rows to read side by side with the papers' tables."""

from dataclasses import dataclass, replace
from typing import Literal

Activation = Literal["relu", "relu6", "hswish", "swish"]
ArchitectureName = Literal["large", "small", "large_minimalistic", "small_minimalistic", "v2"]


@dataclass(frozen=True)
class V3Row:
    """One `bneck` row of MobileNetV3, Table 1 or 2; channels are those of width 1.0."""

    kernel: int
    expansion: int
    out: int
    squeeze_excite: bool
    activation: Activation
    stride: int


@dataclass(frozen=True)
class V3Spec:
    """MobileNetV3: a 3x3 stem at stride 2, `rows`, a 1x1 convolution, pooling, head and classifier.

    `stem` is the number of filters of the first convolution, `last_conv` of the 1x1 convolution before
    pooling, `head` of the fully connected layer after it. Without `head_after_pooling` the head itself is the
    1x1 convolution before pooling.
    """

    rows: tuple[V3Row, ...]
    last_conv: int
    head: int
    stem: int = 16
    activation: Activation = "hswish"
    head_after_pooling: bool = True


@dataclass(frozen=True)
class V2Row:
    """One row of MobileNetV2, Table 2: expansion factor t, output channels c, repeats n, first stride s."""

    t: int
    c: int
    n: int
    s: int


@dataclass(frozen=True)
class V2Spec:
    """MobileNetV2: a 3x3 stem at stride 2, `rows`, a 1x1 convolution to `head`, pooling, classifier."""

    rows: tuple[V2Row, ...]
    head: int = 1280
    stem: int = 32
    activation: Activation = "relu6"


_YES, _NO = True, False

# MobileNetV3 paper, Table 1.
LARGE = V3Spec(
    rows=(
        # kernel exp  out   SE    NL     s
        V3Row(3, 16, 16, _NO, "relu", 1),
        V3Row(3, 64, 24, _NO, "relu", 2),
        V3Row(3, 72, 24, _NO, "relu", 1),
        V3Row(5, 72, 40, _YES, "relu", 2),
        V3Row(5, 120, 40, _YES, "relu", 1),
        V3Row(5, 120, 40, _YES, "relu", 1),
        V3Row(3, 240, 80, _NO, "hswish", 2),
        V3Row(3, 200, 80, _NO, "hswish", 1),
        V3Row(3, 184, 80, _NO, "hswish", 1),
        V3Row(3, 184, 80, _NO, "hswish", 1),
        V3Row(3, 480, 112, _YES, "hswish", 1),
        V3Row(3, 672, 112, _YES, "hswish", 1),
        V3Row(5, 672, 160, _YES, "hswish", 2),
        V3Row(5, 960, 160, _YES, "hswish", 1),
        V3Row(5, 960, 160, _YES, "hswish", 1),
    ),
    last_conv=960,
    head=1280,
)

# MobileNetV3 paper, Table 2. The tick for SE at its last 1x1 convolution is in no release, and with it the
# parameters of Tables 3 and 9 are missed; it is read as a slip.
SMALL = V3Spec(
    rows=(
        # kernel exp  out   SE    NL     s
        V3Row(3, 16, 16, _YES, "relu", 2),
        V3Row(3, 72, 24, _NO, "relu", 2),
        V3Row(3, 88, 24, _NO, "relu", 1),
        V3Row(5, 96, 40, _YES, "hswish", 2),
        V3Row(5, 240, 40, _YES, "hswish", 1),
        V3Row(5, 240, 40, _YES, "hswish", 1),
        V3Row(5, 120, 48, _YES, "hswish", 1),
        V3Row(5, 144, 48, _YES, "hswish", 1),
        V3Row(5, 288, 96, _YES, "hswish", 2),
        V3Row(5, 576, 96, _YES, "hswish", 1),
        V3Row(5, 576, 96, _YES, "hswish", 1),
    ),
    last_conv=576,
    head=1280,
)

# MobileNetV2 paper, Table 2.
V2 = V2Spec(
    rows=(
        V2Row(t=1, c=16, n=1, s=1),
        V2Row(t=6, c=24, n=2, s=2),
        V2Row(t=6, c=32, n=3, s=2),
        V2Row(t=6, c=64, n=4, s=2),
        V2Row(t=6, c=96, n=3, s=1),
        V2Row(t=6, c=160, n=3, s=2),
        V2Row(t=6, c=320, n=1, s=1),
    )
)


def _minimalistic(spec: V3Spec, head: int) -> V3Spec:
    """`spec` without its advanced parts: no squeeze-and-excite, no h-swish, every kernel 3x3."""
    rows = tuple(replace(row, kernel=3, squeeze_excite=False, activation="relu") for row in spec.rows)
    return replace(spec, rows=rows, head=head, activation="relu")


def with_original_last_stage(spec: V3Spec) -> V3Spec:
    """`spec` ending as networks did before MobileNetV3, Figure 5, left: the features are made before pooling.

    The 1x1 convolution to `last_conv` there begins one more bottleneck, 3x3, that projects to twice the
    channels of the row before it: 960 and 320 in Large. Figure 5 shows Large; Small is ended alike.
    """
    row = V3Row(3, spec.last_conv, 2 * spec.rows[-1].out, _NO, spec.activation, 1)
    return replace(spec, rows=(*spec.rows, row), head_after_pooling=False)


# The paper does not define these; Google's release does, with its head of 1024 for Small.
ARCHITECTURES: dict[ArchitectureName, V3Spec | V2Spec] = {
    "large": LARGE,
    "small": SMALL,
    "large_minimalistic": _minimalistic(LARGE, head=1280),
    "small_minimalistic": _minimalistic(SMALL, head=1024),
    "v2": V2,
}
