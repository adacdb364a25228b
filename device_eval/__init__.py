"""Evaluation and measurement of exported files: accuracy, parity, latency."""
