"""Torch side of quantization: fake-quantize, BN folding, prepare, conversion to QuantGraph."""
