"""What other commands write as JSON, made by hand: every figure in it is chosen, none measured."""

import json
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "created": "2026-01-02T03:04:05+00:00",
    "python": "3.11.7",
    "versions": {"qmnv3": "0.1.0", "torch": None},
    "platform": "Linux",
    "cpu": "Some Processor",
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
}


def interval(estimate: float, low: float | None, high: float | None) -> dict[str, Any]:
    return {"estimate": estimate, "low": low, "high": high}


def evaluation(change: float, low: float, high: float, model: str = "int8.tflite") -> dict[str, Any]:
    """`model` against float.tflite; the change and its interval are shares."""
    return {
        "command": "eval",
        "data": "photos/val",
        "images": 200,
        "models": [
            {"path": model, "runtime": "LiteRT xnnpack"},
            {"path": "float.tflite", "runtime": "LiteRT xnnpack"},
        ],
        "top1": interval(0.7, 0.65, 0.75),
        "top5": interval(0.9, 0.85, 0.95),
        "against": {
            "top1": interval(0.7 - change, 0.6, 0.8),
            "top5": interval(0.9, 0.85, 0.95),
            "difference": {**interval(change, low, high), "p_value": 0.5},
            "agreement": interval(0.96, 0.9, 0.99),
            "mean_kl_nats": 0.0123,
        },
        "environment": ENVIRONMENT,
    }


def latency(path: str, runtime: str, samples_us: list[float], **other: Any) -> dict[str, Any]:
    """Three samples: the middle one is the median."""
    return {
        "path": path,
        "runtime": runtime,
        "p50_us": samples_us[1],
        "p90_us": samples_us[2],
        "min_us": samples_us[0],
        "verdict": "steady",
        "latency_us": samples_us,
        "memory_mb": None,
        "profile": None,
        **other,
    }


def structure(path: str, **other: Any) -> dict[str, Any]:
    known = {"path": path, "quantized": False, "size_bytes": 3_000_000, "op_counts": {"CONV_2D": 3}}
    unknown = dict.fromkeys(("macs", "bytes_moved", "arena_bytes", "partitions", "float_ops"))
    return {**known, **unknown, **other}


def benchmark(*latencies: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {
        "command": "bench",
        "threads": 1,
        "device": {"kind": "host"},
        "latencies": latencies,
        "refusals": [],
        "models": [],
        "notes": [],
        "environment": ENVIRONMENT,
        **other,
    }


def sensitivity(site: str = "features.0") -> dict[str, Any]:
    row = {
        "site": site,
        "kind": "activation",
        "images": 60,
        "sqnr_db": 20.5,
        "kl_added": interval(0.01, 0.005, 0.015),
        "predicted_kl": 0.002,
    }
    weight = {**row, "kind": "weight", "kl_added": interval(-0.001, -0.002, 0.0), "predicted_kl": None}
    return {
        "command": "sensitivity",
        "model": "small",
        "images": 60,
        "kl": interval(0.05, 0.03, 0.07),
        "agreement": interval(0.9, 0.8, 0.95),
        "rows": [{**row, "mode": "one"}, {**weight, "mode": "one"}, {**row, "mode": "all_but_one"}],
        "recipe": {"level": 2},
        "environment": ENVIRONMENT,
    }


LEFT_OUT = {
    "leave_one_out": {"median_percent": 8.6, "worst_percent": 14.8},
    "families_left_out": {"V2": {"median_percent": 9.1, "worst_percent": 15.9}},
}


def prediction(path: str = "RUN", precision: str = "int8") -> dict[str, Any]:
    phone = {"device": "Pixel 1", "predicted_ms": 21.4, "interval_ms": [18.2, 25.1]}
    model = {"path": path, "precision": precision, "macs": 56_500_000, "bytes_moved": 10, "weight_bytes": 10}
    predicted = [{**phone, "fitted_to": 4, "coverage": 0.8, **LEFT_OUT}]
    models = [{**model, "predicted": predicted, "notes": ["read the interval"]}]
    return {"command": "predict", "models": models, "environment": ENVIRONMENT}


def lint(path: str = "int8.tflite", severity: str = "warning") -> dict[str, Any]:
    finding = {"rule": "dead-scale", "severity": severity, "effect": "accuracy", "where": "op 3 CONV_2D"}
    findings = [{**finding, "what": "scale 1e-9", "why": "because", "fix": "calibrate again"}]
    models = [{"path": path, "findings": findings}]
    return {"command": "lint", "models": models, "environment": ENVIRONMENT}


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def check(verdict: str = "better", needed: int | None = None) -> dict[str, Any]:
    row = {
        "quantity": "top-1, 8 bits - float",
        "unit": "points",
        "source": "paper, Tables 3 and 4",
        "published": -2.5,
        "estimate": 0.2,
        "low": -1.2,
        "high": 1.5,
        "judgement": {"verdict": verdict, "needed": needed, "reason": None},
        "samples": 650,
    }
    ratio = row | {
        "quantity": "latency, 8 bits / float",
        "unit": "times",
        "source": "Google's release, Pixel 1",
        "published": 0.98,
    }
    return {
        "command": "check",
        "against": "table4",
        "model": "runs/small",
        "network": "small",
        "forced": False,
        "rows": [row, ratio],
        "accuracy": {
            "images": 650,
            "float32": interval(0.797, 0.76, 0.83),
            "int8": interval(0.799, 0.77, 0.83),
            "difference": interval(0.002, -0.012, 0.015),
        },
        "latency": {
            "device": {"kind": "android", "model": "Pixel 2"},
            **{
                precision: {
                    "runtime": "phone xnnpack",
                    "verdict": "steady",
                    "latency_us": [us - 1, us, us + 9],
                }
                for precision, us in (("float32", 26_000), ("int8", 20_000))
            },
        },
        "notes": ["top-1 on 650 images"],
        "environment": ENVIRONMENT,
    }


def ablation(verdict: str = "steady", **options: str) -> dict[str, Any]:
    """V3-Large with `options`, one float and one int8 file, measured on this host."""
    phones = {"Pixel 1": 66.0, "Pixel 2": 77.0}
    predicted = [
        {
            "device": name,
            "predicted_ms": ms,
            "interval_ms": [ms - 6, ms + 6],
            "fitted_to": 22,
            "coverage": 0.9,
            **LEFT_OUT,
        }
        for name, ms in phones.items()
    ]
    forms = ("float32", "int8 add-mul")
    runtime = {"runtime": "LiteRT xnnpack", "verdict": verdict}
    return {
        "command": "ablate",
        "recipe": "placement",
        "device": {"name": "Some Processor", "onnxruntime": "1.32.0"},
        "cells": [
            {
                "variant": "V3-hswish@80",
                "model": "large",
                "options": options,
                "width": 1.0,
                "resolution": 224,
                "size": {
                    "madds": 217_000_000,
                    "files": [{"form": f, "predicted": predicted, "size_bytes": 5_000_000} for f in forms],
                },
                "accuracy": {
                    "top1": {form: {"estimate": 56.1, "low": 54.5, "high": 57.6} for form in forms},
                    "int8_minus_float": {"int8 add-mul": {"estimate": 0.1, "low": -0.4, "high": 0.5}},
                },
                "latency": {
                    "latencies": [
                        {"form": form, "p50_us": us, "ratio": us / 3600, **runtime}
                        for form, us in zip(forms, (6000, 3600), strict=True)
                    ],
                    "conditions": {"kind": "host"},
                },
            },
            {"variant": "failed", "model": "large", "options": {}, "width": 1.0, "resolution": 224},
        ],
        "resolved_recipe": {"lowerings": ["add-mul"]},
        "environment": ENVIRONMENT,
    }
