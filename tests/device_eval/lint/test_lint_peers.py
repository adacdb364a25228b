"""The pack's real files: lint must name what is wrong, and repairing it must help as lint says."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import peer_repair as repair
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from device_eval.lint import Report, lint
from device_eval.partitions import delegate_partitions
from device_eval.runners.litert import LitertRunner
from qmnv3.data import find_images, load_batches, sample
from qmnv3.preprocessing import Preprocessing

IMAGES = 4


@pytest.fixture(scope="module")
def peer(data_pack: Path) -> Path:
    return data_pack / "peers" / "v3_small_ptq_int8.tflite"


@pytest.fixture(scope="module")
def report(peer: Path) -> Report:
    return lint(peer)


def test_refusal_is_traced_to_the_dead_tensor(peer: Path, report: Report) -> None:
    errors = [f for f in report.findings if f.severity == "error"]
    assert [f.rule for f in errors] == ["requantization", "partitions"]
    layer = "op 56 CONV_2D predict/MobilenetV3/expanded_conv_6/squeeze_excite/Conv/Relu"
    assert errors[0].where == layer
    assert "ratio 334.3 in channel 17 (3 of 32 are too large)" in errors[0].what
    assert "output scale 7.84e-09" in errors[0].what
    (dead,) = [f for f in report.findings if f.rule == "dead-scale"]
    assert dead.where == layer and "range of -1e-06 .. 9.96e-07" in dead.what
    assert delegate_partitions(peer).refused is not None


def test_with_that_one_scale_raised_xnnpack_takes_it(peer: Path, report: Report, tmp_path: Path) -> None:
    model = repair.load(peer)
    repair.revive(model, 56)
    path = repair.save(model, tmp_path / "revived.tflite")
    partitions, repaired = delegate_partitions(path), lint(path)
    assert partitions.refused is None and partitions.count > 1
    assert repaired.count("error") == 0 and "dead-scale" not in repaired.rules
    # What lint said would stay outside even then.
    foretold = [f.where for f in report.findings if "even when it takes the model" in f.what]
    counts = {place.split(":")[0] for place in foretold}
    outside = Counter(name for _, name in partitions.undelegated)
    assert counts == {f"{count} {name}" for name, count in outside.items()}
    assert outside == {"HARD_SWISH": 19, "AVERAGE_POOL_2D": 2}


def test_collapse_is_traced_to_h_swish_inputs(peer: Path, report: Report) -> None:
    found = [f for f in report.findings if f.rule == "h-swish-range"]
    model = repair.load(peer)
    producers = {int(op.outputs[0]): i for i, op in enumerate(model.subgraphs[0].operators)}
    wide = {
        producers[tensor]
        for tensor in repair.hard_swish_inputs(model).values()
        for scale, zero_point in [repair.grid(model, tensor)]
        if scale * (-128 - zero_point) < -3 - 0.05 * 255 * scale
    }
    assert {int(f.where.split()[1]) for f in found} == wide and len(wide) == 19
    worst = found[0]
    assert worst.where == "op 104 CONV_2D predict/MobilenetV3/Conv_1/BatchNorm/FusedBatchNormV3"
    assert "covers -333.3 .. 17.9 in steps of 1.38: 94% of its levels lie below -3" in worst.what
    assert "4.36 steps are left for its curve (-3 .. 3), 16.8 times as many if floored" in worst.what


def val_images(data_pack: Path, count: int) -> np.ndarray:
    folder = find_images(data_pack / "imagenet" / "val", classes=True)
    spec = Preprocessing(224, 227, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    indices = sample(folder, count, 0)
    return next(iter(load_batches(folder, spec, count, indices=indices, workers=1))).images


def test_collapse_is_traced_to_extreme_ranges(
    peer: Path, data_pack: Path, report: Report, tmp_path: Path
) -> None:
    """Logits beyond the extremes of calibration are cut off, so that the best classes tie."""
    (found,) = [f for f in report.findings if f.rule == "extreme-ranges"]
    assert "at all 19 h-swish" in found.what and "logits above the end of their range all tie" in found.why
    widened = repair.load(peer)
    repair.widen_logits(widened)
    paths = (peer, repair.save(widened, tmp_path / "widened.tflite"))
    images = val_images(data_pack, 40)
    ties = []
    for path in paths:
        runner = LitertRunner(path, "builtin")
        rows = np.concatenate([runner.run(image[None]) for image in images])
        ties.append(np.count_nonzero((rows == rows.max(axis=1, keepdims=True)).sum(axis=1) > 1))
    assert ties[0] >= 10 and ties[1] <= ties[0] / 2


def test_hard_sigmoids_that_were_observed(report: Report) -> None:
    found = {
        f.where.split("MobilenetV3/")[1]: f.what for f in report.findings if f.rule == "hard-sigmoid-range"
    }
    assert len(found) == 4
    assert "covers 0 .. 4.963, not 0 .. 6" in found["expanded_conv_9/squeeze_excite/Conv_1/Relu6"]
    assert "covers 0 .. 0.8271, not 0 .. 1" in found["expanded_conv_9/squeeze_excite/Conv_1/mul"]
    assert "covers 0 .. 5.912, not 0 .. 6" in found["expanded_conv_5/squeeze_excite/Conv_1/Relu6"]


def activations(path: Path, images: np.ndarray, tensors: tuple[int, ...]) -> list[np.ndarray]:
    """Integers of `tensors` on every image, by LiteRT's reference kernels."""
    made = Interpreter(
        str(path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
        experimental_preserve_all_tensors=True,
        num_threads=1,
    )
    made.allocate_tensors()
    rows: list[list[np.ndarray]] = [[] for _ in tensors]
    for image in images:
        made.set_tensor(made.get_input_details()[0]["index"], image[None])
        made.invoke()
        for kept, tensor in zip(rows, tensors, strict=True):
            kept.append(made.get_tensor(tensor).astype(np.float64))
    return [np.concatenate(kept) for kept in rows]


def layer_1x1(model: Any, op: Any, x: np.ndarray) -> np.ndarray:
    """Exact real output of a 1x1 convolution on the integers `x`."""
    graph = model.subgraphs[0]
    weight, bias = (graph.tensors[i] for i in op.inputs[1:3])
    scale, zero_point = repair.grid(model, int(op.inputs[0]))
    taps = np.asarray(model.buffers[weight.buffer].data, np.uint8).view(np.int8).reshape(weight.shape[0], -1)
    steps = np.asarray(model.buffers[bias.buffer].data, np.uint8).view(np.int32)
    sums = (x - zero_point) @ taps.T.astype(np.float64) + steps
    return sums * scale * np.float64(weight.quantization.scale)


def hard_swish(x: np.ndarray) -> np.ndarray:
    return x * np.clip(x + 3, 0, 6) / 6


def test_floored_input_gives_the_precision_that_lint_promises(
    peer: Path, data_pack: Path, report: Report, tmp_path: Path
) -> None:
    """The same integers go into op 104; its h-swish is compared with the exact one, before and after."""
    images = val_images(data_pack, IMAGES)
    original, floored = repair.load(peer), repair.load(peer)
    tensor = repair.hard_swish_inputs(original)[105]
    repair.floor_hard_swish(floored, tensor)
    paths = (peer, repair.save(floored, tmp_path / "floored.tflite"))
    op = original.subgraphs[0].operators[104]
    before = (int(op.inputs[0]), tensor)
    errors = []
    for path, model in zip(paths, (original, floored), strict=True):
        x, y = activations(path, images, before)
        exact = layer_1x1(original, op, x)
        scale, zero_point = repair.grid(model, tensor)
        # Both grids end at 17.9; what lies above is cut off in both.
        inside = exact < 17.9
        error = hard_swish((y - zero_point) * scale)[inside] - hard_swish(exact)[inside]
        errors.append(np.sqrt(np.mean(error**2)))
    (promise,) = [f.what for f in report.findings if f.where.startswith("op 104 ")]
    gain = float(re.search(r"([\d.]+) times as many if floored", promise)[1])
    assert errors[0] / errors[1] == pytest.approx(gain, rel=0.05)


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("google_v3_small_qat_uint8", {"partitions", "h-swish-range", "per-tensor-weights", "metadata"}),
        ("google_v3_large_minimalistic_qat_uint8", {"partitions", "per-tensor-weights", "metadata"}),
        ("google_v2_1.0_qat_uint8", {"partitions", "per-tensor-weights"}),
    ],
)
def test_googles_files_run_but_warn(data_pack: Path, name: str, rules: set[str]) -> None:
    path = data_pack / "peers" / f"{name}.tflite"
    report = lint(path)
    assert report.count("error") == 0
    assert {f.rule for f in report.findings if f.severity == "warning"} == rules
    outside = Counter(kind for _, kind in delegate_partitions(path).undelegated)
    (cut, *reasons) = [f for f in report.findings if f.rule == "partitions"]
    named = {f.where.split(":")[0] if ": ops" in f.where else f"1 {f.where.split()[2]}" for f in reasons}
    assert named == {f"{count} {kind}" for kind, count in outside.items()}
    assert cut.what.startswith(f"{delegate_partitions(path).count} XNNPACK partitions")
