"""TFLite: a lowered QuantGraph to a flatbuffer with signature and metadata, and the metadata back."""

from qmnv3.export.tflite.metadata import read_metadata
from qmnv3.export.tflite.operators import ADD_RATIO_LIMIT
from qmnv3.export.tflite.writer import build_tflite, write_tflite

__all__ = ["ADD_RATIO_LIMIT", "build_tflite", "read_metadata", "write_tflite"]
