"""The integer reference: a QuantGraph in numpy, with the arithmetic of a named runtime."""

from qmnv3.reference.activations import hard_sigmoid_i8, hard_swish_i8
from qmnv3.reference.interpreter import run
from qmnv3.reference.requantize import SemanticsName

__all__ = ["SemanticsName", "hard_sigmoid_i8", "hard_swish_i8", "run"]
