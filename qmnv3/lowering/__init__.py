"""QuantGraph to QuantGraph rewrites that fit a deployment target."""

from qmnv3.lowering.int16 import int16_tensors
from qmnv3.lowering.interface import InterfaceType
from qmnv3.lowering.targets import Target, is_float, lower

__all__ = ["InterfaceType", "Target", "int16_tensors", "is_float", "lower"]
