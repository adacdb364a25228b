"""Fully integer int8 MobileNets: quantize, export, and measure against the MobileNetV3 paper."""

__version__ = "0.1.0"
