"""How benchmarks.accuracy judges one model: against known errors, foreign files and refused ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from accuracy_fakes import PER_CLASS
from colour_models import colour_folder, colour_graph, write_colour_onnx

from benchmarks.accuracy_measure import Task, measure
from qmnv3.export.onnx_qdq import write_onnx
from qmnv3.export.tflite import write_tflite
from qmnv3.ir import QParams, QuantGraph
from qmnv3.lowering import lower


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    write_onnx(lower(colour_graph(), "ort", "float32"), tmp_path / "reference.onnx")
    return tmp_path / "reference.onnx"


def task(model: Path, reference: Path, baseline: Path, images: Path) -> Task:
    return Task(str(model), str(reference), str(baseline), str(images), str(images), 5, 0, 2)


def test_a_foreign_float_model_gets_the_parents_preprocessing_and_is_found_out(
    tmp_path: Path, reference: Path
) -> None:
    images = colour_folder(tmp_path / "images", PER_CLASS, wrong=1)
    model = write_colour_onnx(tmp_path / "foreign.onnx")
    row = measure(task(model, reference, reference, images))
    assert row["val"]["top1"]["successes"] == 3 * PER_CLASS - 1
    assert row["val"]["agreement"]["successes"] == 3 * PER_CLASS
    assert row["held_out"]["agreement"]["trials"] == 3 * PER_CLASS - 5
    assert row["structure"]["float_ops"]["GlobalAveragePool"] == 1
    assert row["runtime"] == "ONNX Runtime" and row["refused"] is None


def test_a_model_that_answers_otherwise_has_neither_agreement_nor_small_kl(
    tmp_path: Path, reference: Path
) -> None:
    images = colour_folder(tmp_path / "images", PER_CLASS)
    model = write_colour_onnx(tmp_path / "inverted.onnx", gain=-1.0)
    row = measure(task(model, reference, reference, images))
    assert row["val"]["agreement"]["successes"] == 0
    # Logits (1, -1, -1) against (-1, 1, 1).
    p, q = (np.exp(v) / np.exp(v).sum() for v in (np.array([1.0, -1, -1]), np.array([-1.0, 1, 1])))
    assert row["val"]["mean_kl_nats"] == pytest.approx((p * np.log(p / q)).sum(), rel=0.05)


def test_what_xnnpack_refuses_is_judged_with_builtin_kernels(tmp_path: Path, reference: Path) -> None:
    images = colour_folder(tmp_path / "images", PER_CLASS)
    model, baseline = tmp_path / "fine_steps.tflite", tmp_path / "baseline.tflite"
    write_tflite(with_output_step(colour_graph(), 1e-7), model)
    write_tflite(colour_graph(), baseline)
    row = measure(task(model, reference, baseline, images))
    assert row["runtime"] == "LiteRT builtin" and "xnnpack kernels refuse it" in row["refused"]
    assert row["structure"]["partitions"]["count"] == 0
    assert row["val"]["agreement"]["successes"] == 3 * PER_CLASS


def with_output_step(graph: QuantGraph, scale: float) -> QuantGraph:
    """The convolution's output so finely stepped that XNNPACK, which wants ratios below 256, refuses it."""
    grid = QParams(np.float32(scale), np.int32(0))
    changed = {name: replace(graph.tensors[name], qparams=grid) for name in ("features", "pooled", "logits")}
    return replace(graph, tensors=graph.tensors | changed)
