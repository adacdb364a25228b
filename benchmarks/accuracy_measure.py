"""Judges one quantized model for benchmarks.accuracy: accuracy, distance to float, structure, latency.

`python -m benchmarks.accuracy_measure TASK.json ROW.json`, by the interpreter whose runtime the model needs.
"""

import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from device_eval.evaluation import Evaluation, Subject, evaluate
from device_eval.latency.host import pinned, time_in_turns
from device_eval.onnx_operations import optimized_operations
from device_eval.partitions import delegate_partitions
from device_eval.preparation import Prepared
from device_eval.runners import Invocable, Kernel, Runner, open_model
from device_eval.runners.litert import load_interpreter, operations_of
from qmnv3.data import ImageFolder, class_index, find_images, sample
from qmnv3.errors import ModelFileError
from qmnv3.files import write_json

WARMUP = 10


@dataclass(frozen=True)
class Task:
    """`model` against `reference`, the float ONNX file; `baseline` is the float model in `model`'s runtime.

    The first `images` of `calib` drawn with `seed` calibrated the model; all others are held out.
    """

    model: str
    reference: str
    baseline: str
    val: str
    calib: str
    images: int
    seed: int
    runs: int


def measure(task: Task) -> dict[str, Any]:
    """One row as JSON types; accuracies and agreements are fractions with 95 % intervals, KL is in nats."""
    model, kernel, refusal = _open(Path(task.model))
    reference = open_model(Path(task.reference))
    val = find_images(Path(task.val), classes=True)
    calib = find_images(Path(task.calib), classes=True)
    calibrated = set(sample(calib, task.images, task.seed))
    held_out = [index for index in range(len(calib)) if index not in calibrated]
    on_val = _evaluate(model, reference, val, range(len(val)))
    return {
        "file": Path(task.model).name,
        "runtime": model.runtime,
        "refused": refusal,
        "size_bytes": Path(task.model).stat().st_size,
        "val": _judged(on_val),
        "held_out": _judged(_evaluate(model, reference, calib, held_out)) if held_out else None,
        "structure": _structure(Path(task.model)),
        "latency": _latency(model, _open_in(Path(task.baseline), kernel), task.runs, task.seed),
    }


def _open(path: Path) -> tuple[Any, Kernel, str | None]:
    """The model under its runtime's default kernels, or LiteRT's built-in ones where XNNPACK refuses it."""
    try:
        return _open_in(path, "xnnpack"), "xnnpack", None
    except ModelFileError as error:
        if path.suffix != ".tflite":
            raise
        return _open_in(path, "builtin"), "builtin", str(error)


def _open_in(path: Path, kernel: Kernel) -> Any:
    if path.suffix == ".pt2":
        # Imported here: only torchao's environment has what it needs.
        from benchmarks.torch_runner import TorchRunner

        return TorchRunner(path)
    return open_model(path, kernel)


def _evaluate(model: Runner, reference: Runner, folder: ImageFolder, indices: Any) -> Evaluation:
    metadata = reference.metadata
    assert metadata is not None
    prepared = Prepared(metadata.preprocessing, "the float parent")
    subjects = [
        Subject(runner, prepared, class_index(folder, runner.num_outputs, metadata.labels))
        for runner in (model, reference)
    ]
    return evaluate(folder, *subjects, indices=indices)


def _judged(result: Evaluation) -> dict[str, Any]:
    assert result.comparison is not None and result.other is not None
    return {
        "top1": asdict(result.this.top1),
        "float_top1": asdict(result.other.top1),
        **asdict(result.comparison),
    }


def _structure(path: Path) -> dict[str, Any]:
    """Float operations by name and, of a TFLite file, how XNNPACK cuts it."""
    if path.suffix == ".tflite":
        return {"float_ops": _tflite_float_ops(path), "partitions": asdict(delegate_partitions(path))}
    if path.suffix == ".pt2":
        from benchmarks.torch_runner import float_operations, load_program

        return {"float_ops": float_operations(load_program(path))}
    return {"float_ops": optimized_operations(path).float_ops}


def _tflite_float_ops(path: Path) -> dict[str, int]:
    """Operations of a TFLite file that produce float32, DEQUANTIZE at its output not included."""
    interpreter = load_interpreter(path, "builtin", 1)
    dtypes = {detail["index"]: detail["dtype"] for detail in interpreter.get_tensor_details()}
    names = [
        op["op_name"]
        for op in operations_of(interpreter)
        if op["op_name"] != "DEQUANTIZE" and any(dtypes.get(int(t)) is np.float32 for t in op["outputs"])
    ]
    return dict(Counter(names).most_common())


def _latency(model: Any, baseline: Any, runs: int, seed: int) -> dict[str, Any]:
    """Both models in turns, one thread, microseconds; `ratio` is of the medians."""
    side = model.input.resolution
    image = np.random.default_rng(seed).uniform(-1, 1, (1, side, side, 3)).astype(np.float32)
    pair: list[Invocable] = [model, baseline]
    with pinned(threads=1):
        time_in_turns(pair, [image, image], WARMUP)
        ours, floats = time_in_turns(pair, [image, image], runs)
    p50_us, float_p50_us = float(np.median(ours)), float(np.median(floats))
    return {
        "p50_us": p50_us,
        "float_p50_us": float_p50_us,
        "ratio": p50_us / float_p50_us,
        "samples_us": ours,
        "float_samples_us": floats,
    }


if __name__ == "__main__":
    write_json(Path(sys.argv[2]), measure(Task(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
