"""Predicted latency on one large core of a Pixel 1, 2 or 3, from the paper's published latencies."""

from device_eval.predictor.prediction import (
    DevicePrediction,
    Prediction,
    predict,
    predict_graph,
    predict_path,
)

__all__ = ["DevicePrediction", "Prediction", "predict", "predict_graph", "predict_path"]
