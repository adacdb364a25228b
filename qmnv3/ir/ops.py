"""The operations of a QuantGraph: one frozen dataclass each, attributes only.

Activations are NHWC, batch first. `inputs` and `output` are tensor names. `activation` saturates the result:
"relu" to [0, inf), "relu6" to [0, 6], in integers by clamping to those reals on the output's grid. All
activations of an operation have one type, int8 or int16; only Quantize, Dequantize and Cast change it.
"""

from dataclasses import dataclass
from typing import Literal, get_args

Activation = Literal["none", "relu", "relu6"]


@dataclass(frozen=True)
class Padding:
    """Zero padding in pixels on each side of the two spatial axes (in integers: the input's zero point)."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0


@dataclass(frozen=True)
class Quantize:
    """float32 to int8/uint8, or a change of integer grid (int8 to uint8, int16, ...). inputs: (x,)."""

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Dequantize:
    """int8/uint8/int16 to float32. inputs: (x,)."""

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Cast:
    """The same stored integers in int16 instead of int8. inputs: (x,).

    int16 has zero point 0, so the output's reals are the input's plus scale * zero point; the lowering that
    makes one of these puts an Add of the constant -scale * zero point after it.
    """

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Conv2d:
    """Convolution, groups = 1. inputs: (x [N,H,W,I], weight [O,kh,kw,I], bias [O])."""

    name: str
    inputs: tuple[str, ...]
    output: str
    stride: tuple[int, int] = (1, 1)
    padding: Padding = Padding()
    dilation: tuple[int, int] = (1, 1)
    activation: Activation = "none"


@dataclass(frozen=True)
class DepthwiseConv2d:
    """One filter per channel. inputs: (x [N,H,W,C], weight [1,kh,kw,C], bias [C])."""

    name: str
    inputs: tuple[str, ...]
    output: str
    stride: tuple[int, int] = (1, 1)
    padding: Padding = Padding()
    dilation: tuple[int, int] = (1, 1)
    activation: Activation = "none"


@dataclass(frozen=True)
class Add:
    """inputs: (a, b), broadcast like numpy; either may be a constant."""

    name: str
    inputs: tuple[str, ...]
    output: str
    activation: Activation = "none"


@dataclass(frozen=True)
class Mul:
    """inputs: (a, b), broadcast like numpy; either may be a constant."""

    name: str
    inputs: tuple[str, ...]
    output: str
    activation: Activation = "none"


@dataclass(frozen=True)
class Mean:
    """Global average over height and width, kept as 1x1: [N,H,W,C] to [N,1,1,C]. inputs: (x,)."""

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Pad:
    """Zero padding as an operation of its own; output shares the input's qparams. inputs: (x,)."""

    name: str
    inputs: tuple[str, ...]
    output: str
    padding: Padding = Padding()


@dataclass(frozen=True)
class Flatten:
    """[N,1,1,C] to [N,C]; output shares the input's qparams. inputs: (x,)."""

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class PixelPairs:
    """[N,H,W,C] to [N,H,W/2,2C], no element moves; output shares the input's qparams. inputs: (x,)."""

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class HardSwish:
    """x * relu6(x + 3) / 6 (MobileNetV3, section 5.2). inputs: (x,)."""

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class HardSigmoid:
    """relu6(x + 3) / 6 (MobileNetV3, section 5.2). inputs: (x,)."""

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Logistic:
    """1 / (1 + exp(-x)), in int8 onto scale 1/256 and zero point -128; x times it is swish. inputs: (x,)."""

    name: str
    inputs: tuple[str, ...]
    output: str


Op = (
    Quantize
    | Dequantize
    | Cast
    | Conv2d
    | DepthwiseConv2d
    | Add
    | Mul
    | Mean
    | Pad
    | Flatten
    | PixelPairs
    | HardSwish
    | HardSigmoid
    | Logistic
)
OP_KINDS: dict[str, type[Op]] = {kind.__name__: kind for kind in get_args(Op)}
