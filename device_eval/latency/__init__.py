"""Latency of model files: given files, samples; on this host or on a phone, both with the same result."""

from device_eval.latency.benchmark import benchmark
from device_eval.latency.result import Benchmark, Latency, Measurement, OperationTime, Plan, Refusal, Report

__all__ = ["Benchmark", "Latency", "Measurement", "OperationTime", "Plan", "Refusal", "Report", "benchmark"]
