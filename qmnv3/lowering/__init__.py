"""QuantGraph to QuantGraph rewrites that fit a deployment target."""

from qmnv3.lowering.interface import InterfaceType
from qmnv3.lowering.targets import Target, is_float, lower

__all__ = ["InterfaceType", "Target", "is_float", "lower"]
