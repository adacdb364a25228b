"""ONNX files from a QuantGraph: the same integers as QDQ pairs, or the float parent."""

from qmnv3.export.onnx_qdq.metadata import read_metadata
from qmnv3.export.onnx_qdq.writer import build_onnx, write_onnx

__all__ = ["build_onnx", "read_metadata", "write_onnx"]
